//! TLS: the name that is meant is the name that is checked, wherever the connection goes.

use std::sync::Arc;

use berth_azure::id::{HostName, RegistrationId};
use berth_azure::{AzureError, Endpoints};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::TlsAcceptor;

use crate::bodies::body;
use crate::stage::{DPS, Server, Stage, host, json};

/// An authority made for one test, and a server's certificate by it.
pub struct Made {
    pub authority_pem: String,
    pub acceptor: TlsAcceptor,
}

pub fn made_for(names: &[&str]) -> Made {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let leaf = CertificateParams::new(names).unwrap().signed_by(&key, &authority).unwrap();
    let chain: Vec<CertificateDer<'static>> = vec![leaf.der().clone()];
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config =
        rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
    Made { authority_pem: authority.pem(), acceptor: TlsAcceptor::from(Arc::new(config)) }
}

/// A stage whose server has a certificate for `names`, by an authority that the client trusts.
pub async fn stage(names: &[&str], place: impl FnOnce(Endpoints, HostName) -> Endpoints) -> Stage {
    let made = made_for(names);
    let server = Server::tls(made.acceptor).await;
    let address = host(&server.address().to_string());
    let endpoints = place(Endpoints::public(), address).trust_pem(made.authority_pem.as_bytes()).unwrap();
    Stage::over(server, endpoints, 4)
}

fn id() -> RegistrationId {
    RegistrationId::new("device-4dfe3739").unwrap()
}

#[tokio::test]
async fn the_real_name_is_asked_for_wherever_the_connection_goes() {
    let stage = stage(&[DPS], Endpoints::all_at).await;
    stage.server.play(vec![json(200, body!("dps/registration_state.json")); 3]);
    for _ in 0..3 {
        stage.dps().registration(&id()).await.unwrap();
    }
    let seen = stage.server.seen();
    assert_eq!(seen[0].header("host"), Some(DPS));
    assert!(seen[0].header("authorization").unwrap().contains(&format!("sr={DPS}&")));
    assert_eq!(stage.server.connections().opened, 1);
}

#[tokio::test]
async fn a_certificate_for_another_name_is_refused_and_nothing_is_sent() {
    let stage =
        stage(&["localhost", "127.0.0.1", "dps-b.azure-devices-provisioning.net"], Endpoints::all_at).await;
    let error = stage.dps().attempts(1).registration(&id()).await.unwrap_err();
    assert!(matches!(error, AzureError::Connect { .. }) && error.to_string().contains("TLS with"), "{error}");
    assert!(stage.server.seen().is_empty());
}

#[tokio::test]
async fn an_authority_that_nobody_named_is_not_trusted() {
    let made = made_for(&[DPS]);
    let another = made_for(&[DPS]);
    let server = Server::tls(made.acceptor).await;
    let endpoints = Endpoints::public()
        .all_at(host(&server.address().to_string()))
        .trust_pem(another.authority_pem.as_bytes())
        .unwrap();
    let stage = Stage::over(server, endpoints, 4);
    let error = stage.dps().attempts(1).registration(&id()).await.unwrap_err();
    assert!(matches!(error, AzureError::Connect { .. }) && error.is_retryable(), "{error}");
    assert!(stage.server.seen().is_empty());
}

#[tokio::test]
async fn tls_is_spoken_unless_plain_http_was_asked_for() {
    // A server without TLS, at an address that was not marked as plain.
    let server = Server::plain().await;
    let endpoints = Endpoints::public().all_at(host(&server.address().to_string()));
    let stage = Stage::over(server, endpoints, 4);
    stage.server.play([json(200, body!("dps/registration_state.json"))]);
    // What comes there is a greeting of TLS and no HTTP, so that the server waits for the end of a head.
    let dps = stage.dps().attempts(1);
    let call = tokio::spawn(async move { dps.registration(&id()).await });
    while !call.is_finished() {
        tokio::task::yield_now().await;
        stage.clock.turn(std::time::Duration::from_secs(1));
    }
    call.await.unwrap().unwrap_err();
    assert!(stage.server.seen().is_empty());
}

#[tokio::test]
async fn an_authority_comes_from_a_file_too() {
    let made = made_for(&[DPS]);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ca.pem");
    std::fs::write(&path, &made.authority_pem).unwrap();
    let server = Server::tls(made.acceptor).await;
    let endpoints =
        Endpoints::public().at(host(DPS), host(&server.address().to_string())).trust_file(&path).unwrap();
    let stage = Stage::over(server, endpoints, 4);
    stage.server.play([json(200, body!("dps/registration_state.json"))]);
    stage.dps().registration(&id()).await.unwrap();
}
