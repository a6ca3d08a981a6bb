//! Where the directory and Azure disagree: asked of the leader, which alone knows.

use berth_proto::v1;
use berth_proto::v1::reconcile_service_client::ReconcileServiceClient;

use crate::call::Client;
use crate::error::Error;

impl Client {
    /// Has Azure asked about one device now. Repeats do no harm.
    ///
    /// # Errors
    /// [`Error::Refused`] with NOT_FOUND where nobody knows the device; see [`Error`] for the rest.
    pub async fn reconcile_device(
        &self,
        request: v1::ReconcileDeviceRequest,
    ) -> Result<v1::ReconcileDeviceResponse, Error> {
        let call = |channel, request| async move {
            ReconcileServiceClient::new(channel).reconcile_device(request).await
        };
        self.of_leader(request, call).await
    }

    /// Lists a page of the devices that Azure and the directory disagree over.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn list_drift(&self, request: v1::ListDriftRequest) -> Result<v1::ListDriftResponse, Error> {
        let call =
            |channel, request| async move { ReconcileServiceClient::new(channel).list_drift(request).await };
        self.of_leader(request, call).await
    }

    /// Ends a disagreement.
    ///
    /// # Errors
    /// [`Error::Refused`] with NOT_FOUND where none is listed, with FAILED_PRECONDITION where it cannot be ended so; see
    /// [`Error`] for the rest.
    pub async fn resolve_drift(
        &self,
        request: v1::ResolveDriftRequest,
    ) -> Result<v1::ResolveDriftResponse, Error> {
        self.write(request, |channel, request| async move {
            ReconcileServiceClient::new(channel).resolve_drift(request).await
        })
        .await
    }

    /// Says how often Azure may be asked.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn budget(&self, request: v1::GetBudgetRequest) -> Result<v1::GetBudgetResponse, Error> {
        let call =
            |channel, request| async move { ReconcileServiceClient::new(channel).get_budget(request).await };
        self.of_leader(request, call).await
    }
}
