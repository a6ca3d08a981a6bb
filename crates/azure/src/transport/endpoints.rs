//! Where a host really is, and whom to trust there: for emulators, proxies and private links.

use std::collections::BTreeMap;
use std::path::Path;

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use crate::id::HostName;

/// Most authorities that may be added.
pub const EXTRA_AUTHORITIES_MAX: usize = 64;
/// Most hosts that may have an address of their own.
pub const OVERRIDES_MAX: usize = 1_024;
/// Largest PEM file read, in bytes.
pub const PEM_BYTES_MAX: u64 = 1_024 * 1_024;

/// Why the endpoints cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// A PEM holds no certificate, or a broken one.
    #[error("authority {place}: {problem}; give a PEM file with at least one CERTIFICATE")]
    Authority {
        /// The file, or `given PEM`.
        place: String,
        /// What is wrong.
        problem: String,
    },
    /// More than may be held.
    #[error("{count} {what} are too many; at most {max} are kept")]
    TooMany {
        /// What there is too much of.
        what: &'static str,
        /// How many.
        count: usize,
        /// How many may be.
        max: usize,
    },
    /// Plain http to whatever address the name resolves to.
    #[error("plain http to {host} needs an address: name the emulator or proxy that is meant")]
    PlainWithoutAddress {
        /// The host.
        host: String,
    },
    /// TLS could not be set up.
    #[error("TLS cannot be set up: {problem}")]
    Tls {
        /// What is wrong.
        problem: String,
    },
}

/// How to reach one host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wire {
    Tls,
    /// Asked for expressly, together with an address.
    Plain,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    address: HostName,
    wire: Wire,
}

/// Where each host is: by name or IPv4 address; there is no speaking through a CONNECT proxy. URL, TLS name, `Host` header and signatures always name the real host; only the address dialled
/// changes.
#[derive(Clone, Default)]
pub struct Endpoints {
    of_host: BTreeMap<HostName, Place>,
    of_all: Option<Place>,
    authorities: Vec<CertificateDer<'static>>,
}

impl std::fmt::Debug for Endpoints {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Endpoints")
            .field("of_host", &self.of_host)
            .field("of_all", &self.of_all)
            .field("authorities", &self.authorities.len())
            .finish()
    }
}

impl Endpoints {
    /// Azure itself: hosts are where DNS says, port 443, and the public authorities are trusted.
    pub fn public() -> Self {
        Self::default()
    }

    /// Dials `host` at `address` (`127.0.0.1:8443`; port 443 where none is given), over TLS.
    pub fn at(mut self, host: HostName, address: HostName) -> Self {
        self.of_host.insert(host, Place { address, wire: Wire::Tls });
        self
    }

    /// Dials every host without an address of its own at `address`, over TLS: an emulator that goes by `Host`.
    pub fn all_at(mut self, address: HostName) -> Self {
        self.of_all = Some(Place { address, wire: Wire::Tls });
        self
    }

    /// Speaks plain http to `host`, at `address` (port 80 where none is given). No bearer token is ever sent there.
    pub fn plain_at(mut self, host: HostName, address: HostName) -> Self {
        self.of_host.insert(host, Place { address, wire: Wire::Plain });
        self
    }

    /// Trusts the authorities in this PEM as well as the public ones.
    pub fn trust_pem(mut self, pem: &[u8]) -> Result<Self, EndpointError> {
        self.add_authorities("given PEM", pem)?;
        Ok(self)
    }

    /// Trusts the authorities in this PEM file as well as the public ones.
    pub fn trust_file(mut self, path: &Path) -> Result<Self, EndpointError> {
        use std::io::Read as _;
        let place = path.display().to_string();
        let failed = |problem: String| EndpointError::Authority { place: place.clone(), problem };
        let mut pem = Vec::new();
        let file = std::fs::File::open(path).map_err(|error| failed(format!("cannot be opened: {error}")))?;
        file.take(PEM_BYTES_MAX)
            .read_to_end(&mut pem)
            .map_err(|error| failed(format!("cannot be read: {error}")))?;
        self.add_authorities(&place, &pem)?;
        Ok(self)
    }

    fn add_authorities(&mut self, place: &str, pem: &[u8]) -> Result<(), EndpointError> {
        let failed = |problem: String| EndpointError::Authority { place: place.to_owned(), problem };
        let before = self.authorities.len();
        for found in CertificateDer::pem_slice_iter(pem) {
            let found = found.map_err(|error| failed(format!("is no PEM: {error}")))?;
            self.authorities.push(found);
            if self.authorities.len() > EXTRA_AUTHORITIES_MAX {
                return Err(EndpointError::TooMany {
                    what: "authorities",
                    count: self.authorities.len(),
                    max: EXTRA_AUTHORITIES_MAX,
                });
            }
        }
        if self.authorities.len() == before {
            return Err(failed("holds no certificate".to_owned()));
        }
        Ok(())
    }

    pub(crate) fn check(&self) -> Result<(), EndpointError> {
        if self.of_host.len() > OVERRIDES_MAX {
            let count = self.of_host.len();
            return Err(EndpointError::TooMany { what: "addresses of hosts", count, max: OVERRIDES_MAX });
        }
        Ok(())
    }

    /// The roots to verify servers by.
    pub(crate) fn roots(&self) -> Result<RootCertStore, EndpointError> {
        let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        for authority in &self.authorities {
            roots.add(authority.clone()).map_err(|error| EndpointError::Authority {
                place: "given PEM".to_owned(),
                problem: format!("holds a certificate that cannot be an authority: {error}"),
            })?;
        }
        Ok(roots)
    }

    fn place(&self, host: &HostName) -> Option<&Place> {
        self.of_host.get(host).or(self.of_all.as_ref())
    }

    pub(crate) fn wire(&self, host: &HostName) -> Wire {
        self.place(host).map_or(Wire::Tls, |place| place.wire)
    }

    /// Name and port to dial for a host.
    pub(crate) fn address(&self, host: &HostName) -> (String, u16) {
        let (target, wire) = match self.place(host) {
            Some(place) => (&place.address, place.wire),
            None => (host, Wire::Tls),
        };
        let port = match wire {
            Wire::Tls => 443,
            Wire::Plain => 80,
        };
        (target.name().to_owned(), target.port().unwrap_or(port))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(text: &str) -> HostName {
        HostName::new(text).unwrap()
    }

    #[test]
    fn the_nearest_word_counts() {
        let endpoints = Endpoints::public()
            .at(host("a.azure-devices.net"), host("127.0.0.1:8443"))
            .plain_at(host("b.azure-devices.net"), host("localhost"))
            .all_at(host("proxy"));
        assert_eq!(endpoints.address(&host("a.azure-devices.net")), ("127.0.0.1".into(), 8443));
        assert_eq!(endpoints.address(&host("b.azure-devices.net")), ("localhost".into(), 80));
        assert_eq!(endpoints.wire(&host("b.azure-devices.net")), Wire::Plain);
        assert_eq!(endpoints.address(&host("c.azure-devices.net")), ("proxy".into(), 443));
        assert_eq!(endpoints.wire(&host("c.azure-devices.net")), Wire::Tls);
        let public = Endpoints::public();
        assert_eq!(public.address(&host("a.azure-devices.net")), ("a.azure-devices.net".into(), 443));
        assert_eq!(public.address(&host("localhost:8443")), ("localhost".into(), 8443));
    }

    #[test]
    fn a_pem_without_a_certificate_is_refused() {
        let refused = Endpoints::public().trust_pem(b"not a pem").unwrap_err();
        assert!(refused.to_string().contains("holds no certificate"));
        let refused = Endpoints::public().trust_file(Path::new("/no/such/ca.pem")).unwrap_err();
        assert!(refused.to_string().contains("/no/such/ca.pem"));
    }
}
