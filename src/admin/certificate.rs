//! The console's certificate: read again when its files change, without dropping a connection.
//!
//! Renewals come every few weeks and nobody reloads for them. The files are looked at when somebody
//! connects, which is rare here; new ones that do not work are told and the old one stays.

use std::{
    fs, io,
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use tokio_rustls::TlsAcceptor;

use super::Certificate;
use crate::net::tls::server;

/// A certificate in use.
pub(super) struct Renewing {
    files: Certificate,
    current: Mutex<Current>,
}

struct Current {
    acceptor: TlsAcceptor,
    /// When certificate and key were last written.
    written: Written,
}

type Written = Option<(SystemTime, SystemTime)>;

impl Renewing {
    /// Reads the files. Blocking.
    ///
    /// # Errors
    /// Worded for the operator.
    pub(super) fn open(files: Certificate) -> Result<Arc<Self>, server::Error> {
        let written = written(&files).ok();
        let config = server::config(&files.file, &files.key_file)?;
        Ok(Arc::new(Self {
            files,
            current: Mutex::new(Current {
                acceptor: TlsAcceptor::from(config),
                written,
            }),
        }))
    }

    /// What a new connection is greeted with.
    pub(super) async fn acceptor(self: &Arc<Self>) -> TlsAcceptor {
        let renewing = Arc::clone(self);
        // Looks at two files, and now and then reads them.
        let looked = tokio::task::spawn_blocking(move || renewing.look()).await;
        looked.unwrap_or_else(|_| self.lock().acceptor.clone())
    }

    fn look(&self) -> TlsAcceptor {
        let written = written(&self.files).ok();
        let mut current = self.lock();
        if written.is_some() && written != current.written {
            // Also after a failure: a file that is wrong is told once.
            current.written = written;
            match server::config(&self.files.file, &self.files.key_file) {
                Ok(config) => {
                    current.acceptor = TlsAcceptor::from(config);
                    tracing::info!(event = "certificate_renewed", listener = "console");
                }
                Err(error) => {
                    tracing::error!(event = "certificate_refused", listener = "console", %error,
                        "the certificate before it stays in use");
                }
            }
        }
        current.acceptor.clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn written(files: &Certificate) -> io::Result<(SystemTime, SystemTime)> {
    let at = |path| fs::metadata(path)?.modified();
    Ok((at(&files.file)?, at(&files.key_file)?))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Writes a fresh certificate, `seconds` after the epoch by the file system's word.
    fn write(files: &Certificate, seconds: u64) {
        let made = rcgen::generate_simple_self_signed(["console.example".to_owned()]).unwrap();
        fs::write(&files.file, made.cert.pem()).unwrap();
        fs::write(&files.key_file, made.signing_key.serialize_pem()).unwrap();
        stamp(files, seconds);
    }

    fn stamp(files: &Certificate, seconds: u64) {
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        for path in [&files.file, &files.key_file] {
            let file = fs::File::options().write(true).open(path).unwrap();
            file.set_modified(at).unwrap();
        }
    }

    #[tokio::test]
    async fn a_renewed_certificate_is_taken_and_a_broken_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let files = Certificate {
            file: folder.path().join("cert.pem"),
            key_file: folder.path().join("key.pem"),
        };
        write(&files, 1);
        let renewing = Renewing::open(files.clone()).unwrap();
        let first = renewing.acceptor().await;
        let same = |a: &TlsAcceptor, b: &TlsAcceptor| Arc::ptr_eq(a.config(), b.config());
        assert!(same(&first, &renewing.acceptor().await));
        write(&files, 2);
        let second = renewing.acceptor().await;
        assert!(!same(&first, &second));
        fs::write(&files.file, "broken").unwrap();
        stamp(&files, 3);
        assert!(same(&second, &renewing.acceptor().await));
        fs::remove_file(&files.file).unwrap();
        assert!(same(&second, &renewing.acceptor().await));
    }
}
