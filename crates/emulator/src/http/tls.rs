//! The emulator's own authority and its certificate, made anew at each start.

use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, date_time_ymd,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use thiserror::Error;

/// Why TLS could not be set up.
#[derive(Debug, Error)]
pub enum TlsError {
    /// A certificate could not be made.
    #[error("no certificate could be made")]
    Certificate(#[from] rcgen::Error),
    /// A certificate could not be used.
    #[error("a certificate could not be used")]
    Use(#[from] rustls::Error),
    /// A PEM file holds no certificate.
    #[error("the PEM of the webhook's authorities could not be read")]
    Pem(#[from] rustls::pki_types::pem::Error),
}

/// What listening and calling need.
pub(crate) struct Tls {
    pub(crate) server: Arc<ServerConfig>,
    pub(crate) client: Arc<ClientConfig>,
    pub(crate) ca_pem: String,
}

impl Tls {
    /// An authority, a certificate for `names`, and a client that trusts the authority and those in `trusted_pem`.
    pub(crate) fn new(names: Vec<String>, trusted_pem: Option<&[u8]>) -> Result<Self, TlsError> {
        let ca_key = KeyPair::generate()?;
        let mut ca = params(Vec::new())?;
        ca.distinguished_name.push(DnType::CommonName, "Berth emulator authority");
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let ca_certificate = ca.self_signed(&ca_key)?;
        let issuer = Issuer::new(ca, ca_key);
        let key = KeyPair::generate()?;
        let mut leaf = params(names)?;
        leaf.distinguished_name.push(DnType::CommonName, "Berth emulator");
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        leaf.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
        leaf.use_authority_key_identifier_extension = true;
        let certificate = leaf.signed_by(&key, &issuer)?;
        let chain = vec![certificate.der().clone(), ca_certificate.der().clone()];
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        server.alpn_protocols = vec![b"http/1.1".to_vec()];
        let mut roots = RootCertStore::empty();
        roots.add(ca_certificate.der().clone())?;
        for certificate in trusted_pem.into_iter().flat_map(CertificateDer::pem_slice_iter) {
            roots.add(certificate?)?;
        }
        let client = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self { server: Arc::new(server), client: Arc::new(client), ca_pem: ca_certificate.pem() })
    }
}

fn params(names: Vec<String>) -> Result<CertificateParams, TlsError> {
    let mut params = CertificateParams::new(names)?;
    // Fixed dates, so that a clock that is moved does not end them.
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2049, 12, 31);
    params.distinguished_name = rcgen::DistinguishedName::new();
    Ok(params)
}
