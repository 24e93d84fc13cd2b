//! Upstream: the certificate is always verified; platform roots, plus a CA file where configured.
//!
//! One configuration a CA file, made when first needed and kept: it carries the session tickets, so
//! that a reconnect resumes instead of starting over.

use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, OtherError, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
};
use rustls_platform_verifier::Verifier;
use tokio_rustls::TlsConnector;
use x509_cert::der::Decode;

/// Why no TLS configuration could be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The CA file cannot be read.
    #[error("ca_file {path}", path = path.display())]
    CaFile {
        /// Which.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The CA file holds no certificate, or one that is none.
    #[error("ca_file {path}: no usable PEM certificate in it", path = path.display())]
    Pem {
        /// Which.
        path: PathBuf,
    },
    /// No root certificates, or a provider that cannot do TLS 1.2.
    #[error("no TLS: are the system's CA certificates installed?")]
    Tls(#[from] rustls::Error),
}

/// Makes connectors and keeps them. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Connectors(Arc<Mutex<HashMap<Option<PathBuf>, Arc<ClientConfig>>>>);

impl Connectors {
    /// None made yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The connector that trusts the platform's roots and those of `ca_file`: TLS 1.2 or newer,
    /// certificate and name verified, sessions resumed. Made on the first call (it reads files on
    /// a blocking thread), kept afterwards; an error is not kept.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn get(&self, ca_file: Option<&Path>) -> Result<TlsConnector, Error> {
        let key = ca_file.map(Path::to_owned);
        if let Some(config) = self.lock().get(&key) {
            return Ok(TlsConnector::from(Arc::clone(config)));
        }
        let wanted = key.clone();
        let made = tokio::task::spawn_blocking(move || build(wanted.as_deref()))
            .await
            .map_err(|_| rustls::Error::General("interrupted".to_owned()))??;
        let mut kept = self.lock();
        // Another caller may have been faster; its session tickets are as good as ours.
        let config = kept.entry(key).or_insert_with(|| Arc::new(made));
        Ok(TlsConnector::from(Arc::clone(config)))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Option<PathBuf>, Arc<ClientConfig>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn build(ca_file: Option<&Path>) -> Result<ClientConfig, Error> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let roots = ca_file.map(read_roots).transpose()?.unwrap_or_default();
    let verifier = Verifier::new_with_extra_roots(roots, Arc::clone(&provider))?;
    // `dangerous` is how rustls names any verifier that it did not build itself; this one verifies.
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Naming(verifier)))
        .with_no_client_auth();
    Ok(config)
}

/// A certificate that was refused: why, and who issued it. An issuer nobody expects is a proxy that
/// inspects TLS.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{cause} (the certificate was issued by {issuer})")]
pub struct Refused {
    /// The issuer's distinguished name.
    pub issuer: String,
    /// What is wrong.
    pub cause: rustls::Error,
}

/// The platform's verifier, whose refusals say who issued the certificate.
#[derive(Debug)]
struct Naming(Verifier);

impl ServerCertVerifier for Naming {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verified =
            (self.0).verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        verified.map_err(|cause| {
            let issuer = issuer(end_entity);
            let refused = Arc::new(Refused { issuer, cause });
            CertificateError::Other(OtherError(refused)).into()
        })
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        (self.0).verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        (self.0).verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// Who issued a certificate, harmless to print.
#[must_use]
pub fn issuer(certificate: &CertificateDer<'_>) -> String {
    let parsed = x509_cert::Certificate::from_der(certificate);
    let name = parsed.map(|parsed| parsed.tbs_certificate().issuer().to_string());
    let name = name.unwrap_or_default();
    let name: String = name
        .chars()
        .filter(|char| !char.is_control())
        .take(ISSUER_MAX)
        .collect();
    if name.is_empty() {
        return "somebody without a name".to_owned();
    }
    name
}

/// Longest issuer that is shown.
const ISSUER_MAX: usize = 200;

fn read_roots(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let pem = std::fs::read(path).map_err(|source| Error::CaFile {
        path: path.to_owned(),
        source,
    })?;
    let roots: Vec<_> = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .unwrap_or_default();
    if roots.is_empty() {
        return Err(Error::Pem {
            path: path.to_owned(),
        });
    }
    Ok(roots)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_ca_file_that_is_none_is_named() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("ca.pem");
        let connectors = Connectors::new();
        let missing = connectors
            .get(Some(&path))
            .await
            .err()
            .map(|e| e.to_string());
        assert_eq!(missing, Some(format!("ca_file {}", path.display())));

        std::fs::write(&path, "hello").expect("writable");
        assert!(matches!(
            connectors.get(Some(&path)).await,
            Err(Error::Pem { .. })
        ));
    }

    #[tokio::test]
    async fn a_connector_is_made_once() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("ca.pem");
        let made = rcgen::generate_simple_self_signed(["relay.example".to_owned()]);
        std::fs::write(&path, made.expect("a certificate").cert.pem()).expect("writable");
        let connectors = Connectors::new();
        let first = connectors.get(Some(&path)).await.expect("a connector");
        let second = connectors.get(Some(&path)).await.expect("a connector");
        assert!(Arc::ptr_eq(first.config(), second.config()));
    }
}
