//! Listeners: certificate chain and key from PEM files.

use std::{path::Path, sync::Arc};

use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject},
};

/// Why a listener's certificate cannot be used. Each names the file.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read, or holds broken PEM.
    #[error("cannot read {what} from {file}: {cause}; give a PEM file that the daemon may read")]
    Read {
        /// Certificate or private key.
        what: &'static str,
        /// Which file.
        file: String,
        /// What the reader says.
        cause: pem::Error,
    },
    /// The file holds no certificate.
    #[error("{0} holds no certificate; give the chain in PEM, the server's own certificate first")]
    Empty(String),
    /// Chain and key are readable but do not work together.
    #[error("certificate {file} does not work with its key: {cause}")]
    Mismatch {
        /// The certificate's file.
        file: String,
        /// What rustls says.
        cause: rustls::Error,
    },
}

/// A server configuration (TLS 1.2 and 1.3, no client certificates) from a chain and a key in PEM.
/// Blocking.
///
/// # Errors
/// [`Error`], worded for the operator.
pub fn config(certificate: &Path, key: &Path) -> Result<Arc<ServerConfig>, Error> {
    let read = |what, file: &Path, cause| Error::Read {
        what,
        file: file.display().to_string(),
        cause,
    };
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|cause| read("certificates", certificate, cause))?;
    if chain.is_empty() {
        return Err(Error::Empty(certificate.display().to_string()));
    }
    let key = PrivateKeyDer::from_pem_file(key).map_err(|cause| read("private key", key, cause))?;
    let provider = Arc::new(aws_lc_rs::default_provider());
    ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
        .map(Arc::new)
        .map_err(|cause| Error::Mismatch {
            file: certificate.display().to_string(),
            cause,
        })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_chain_and_its_key_work_and_others_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for name in ["a", "b"] {
            let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
            fs::write(path(&format!("{name}.crt")), made.cert.pem()).unwrap();
            fs::write(
                path(&format!("{name}.key")),
                made.signing_key.serialize_pem(),
            )
            .unwrap();
        }
        fs::write(path("empty"), "").unwrap();
        assert!(config(&path("a.crt"), &path("a.key")).is_ok());
        for (certificate, key, part) in [
            ("missing", "a.key", "missing"),
            ("a.crt", "missing", "private key"),
            ("empty", "a.key", "holds no certificate"),
            ("a.crt", "b.key", "does not work with its key"),
        ] {
            let error = config(&path(certificate), &path(key)).unwrap_err();
            assert!(error.to_string().contains(part), "{error}");
        }
    }
}
