//! TLS with bound places: spoken by the supervisor, so that a function needs no TLS library and no certificates. Whoever is not
//! the host of the manifest, by a certificate that this host believes, is not spoken with; there is no switch for that.

use std::cell::RefCell;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, InvalidDnsNameError, ServerName};
use tokio_rustls::rustls::{CertificateError, ClientConfig, Error, RootCertStore};

use crate::catalog::binding::Host;

/// Certificates are read again after this: the system's are upgraded now and then.
const HOLD: Duration = Duration::from_secs(3600);

/// Where systems keep the certificates that they believe, beside [`funcd_sandbox::system`].
const USUAL: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// The files that must stay readable for certificates to be checked.
pub(super) fn files(roots: &[PathBuf]) -> impl Iterator<Item = PathBuf> {
    USUAL.iter().map(PathBuf::from).chain(roots.to_vec())
}

/// Why there is no TLS with a place.
#[derive(Debug, thiserror::Error)]
pub(super) enum TlsError {
    /// Nobody could be believed.
    #[error(
        "this host has no certificates to check it by ({0}): install ca-certificates, or name a file in `egress.roots`"
    )]
    NoRoots(String),
    /// A file of the configuration holds none.
    #[error("`egress.roots`: {}: {why}", path.display())]
    Roots {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// Its name can't be in a certificate.
    #[error("{0}")]
    Name(#[from] InvalidDnsNameError),
    /// Its certificate is nobody's whom this host believes.
    #[error(
        "nobody whom this host believes says that it is who it is ({0}); if its own authority does, name that in `egress.roots`"
    )]
    Unbelieved(io::Error),
    /// It does not speak TLS, or says who it is and is not.
    #[error("no TLS with it: {0}")]
    Handshake(io::Error),
}

/// Speaks TLS, for one thread.
#[derive(Debug)]
pub(super) struct Tls {
    roots: Vec<PathBuf>,
    ready: RefCell<Option<(Instant, Arc<ClientConfig>)>>,
}

impl Tls {
    /// Believes the certificates of the system, and those in these files.
    pub(super) fn new(roots: Vec<PathBuf>) -> Tls {
        Tls {
            roots,
            ready: RefCell::default(),
        }
    }

    /// Speaks TLS over a connection to a host.
    pub(super) async fn connect(
        &self,
        host: &Host,
        stream: TcpStream,
    ) -> Result<TlsStream<TcpStream>, TlsError> {
        let name = match host {
            Host::Name(name) => ServerName::try_from(name.clone())?,
            Host::Address(address) => ServerName::IpAddress(IpAddr::into(*address)),
        };
        let connector = TlsConnector::from(self.config()?);
        connector.connect(name, stream).await.map_err(|error| {
            let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
            match inner {
                Some(Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {
                    TlsError::Unbelieved(error)
                }
                _ => TlsError::Handshake(error),
            }
        })
    }

    /// Made when it is needed first: a hundred certificates take milliseconds to read. Sessions are resumed for as long as it is
    /// kept.
    fn config(&self) -> Result<Arc<ClientConfig>, TlsError> {
        let now = Instant::now();
        if let Some((since, config)) = &*self.ready.borrow()
            && now.duration_since(*since) < HOLD
        {
            return Ok(Arc::clone(config));
        }
        let provider = Arc::new(ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring has what TLS 1.2 and 1.3 need")
            .with_root_certificates(believed(&self.roots)?)
            .with_no_client_auth();
        let config = Arc::new(config);
        *self.ready.borrow_mut() = Some((now, Arc::clone(&config)));
        Ok(config)
    }
}

fn believed(files: &[PathBuf]) -> Result<RootCertStore, TlsError> {
    let mut store = RootCertStore::empty();
    for path in files {
        let wrong = |why: String| TlsError::Roots {
            path: path.clone(),
            why,
        };
        let certificates = CertificateDer::pem_file_iter(path).map_err(|error| wrong(error.to_string()))?;
        let before = store.len();
        for certificate in certificates {
            let certificate = certificate.map_err(|error| wrong(error.to_string()))?;
            store.add(certificate).map_err(|error| wrong(error.to_string()))?;
        }
        if store.len() == before {
            return Err(wrong("there is no certificate in it".to_owned()));
        }
    }
    let system = rustls_native_certs::load_native_certs();
    store.add_parsable_certificates(system.certs);
    if store.is_empty() {
        let why = system.errors.first().map(ToString::to_string);
        return Err(TlsError::NoRoots(
            why.unwrap_or_else(|| "none were found".to_owned()),
        ));
    }
    Ok(store)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_roots_that_holds_none_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("roots.pem");
        let missing = believed(std::slice::from_ref(&path)).unwrap_err().to_string();
        assert!(
            missing.contains("roots.pem") && missing.contains("egress.roots"),
            "{missing}"
        );
        std::fs::write(&path, "nothing\n").unwrap();
        let empty = believed(std::slice::from_ref(&path)).unwrap_err().to_string();
        assert!(empty.contains("no certificate in it"), "{empty}");
        std::fs::write(
            &path,
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        )
        .unwrap();
        assert!(believed(&[path]).is_err());
    }
}
