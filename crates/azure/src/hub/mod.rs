//! An IoT hub, through its service API: identities, twins, queries, direct methods and statistics.

mod bulk;
mod identity;
mod method;
mod service;
mod twin;

pub use bulk::{
    BULK_DEVICES_MAX, BulkDevice, BulkDeviceError, BulkDeviceMode, BulkDeviceResult, BulkDeviceWarning,
};
pub use identity::{
    Authentication, AuthenticationKind, ConnectionState, DeviceCapabilities, DeviceStatus, Identity, Keys,
};
pub use method::{
    CONNECT_TIMEOUT_MAX_S, MethodAnswer, MethodCall, PAYLOAD_BYTES_MAX, RESPONSE_TIMEOUT_MAX_S,
    RESPONSE_TIMEOUT_MIN_S,
};
pub use service::{DeviceStatistics, Service, ServiceStatistics};
pub use twin::{Twin, TwinChange, TwinProperties};

/// Version of the service API that is asked for (IoT Hub REST API).
pub const API_VERSION: &str = "2021-04-12";
