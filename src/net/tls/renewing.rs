//! A listener's certificate: read again when its files change, without dropping a connection.
//!
//! Renewals come every few weeks and nobody reloads for them. The files are looked at when somebody
//! begins TLS, which costs nothing beside the handshake; new ones that do not work are told and the
//! old one stays.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use tokio_rustls::TlsAcceptor;

use super::server;

/// A certificate in use.
pub struct Renewing {
    /// Names it in the log.
    listener: String,
    file: PathBuf,
    key_file: PathBuf,
    current: Mutex<Current>,
}

impl std::fmt::Debug for Renewing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Renewing").field(&self.file).finish()
    }
}

struct Current {
    acceptor: TlsAcceptor,
    /// When certificate and key were last written.
    written: Written,
}

type Written = Option<(SystemTime, SystemTime)>;

impl Renewing {
    /// Reads chain and key of the listener of this name. Blocking.
    ///
    /// # Errors
    /// Worded for the operator.
    pub fn open(listener: &str, file: &Path, key_file: &Path) -> Result<Arc<Self>, server::Error> {
        let written = written(file, key_file).ok();
        let config = server::config(file, key_file)?;
        Ok(Arc::new(Self {
            listener: listener.to_owned(),
            file: file.to_owned(),
            key_file: key_file.to_owned(),
            current: Mutex::new(Current {
                acceptor: TlsAcceptor::from(config),
                written,
            }),
        }))
    }

    /// What a new connection is greeted with.
    pub async fn acceptor(self: &Arc<Self>) -> TlsAcceptor {
        let renewing = Arc::clone(self);
        // Looks at two files, and now and then reads them.
        let looked = tokio::task::spawn_blocking(move || renewing.look()).await;
        looked.unwrap_or_else(|_| self.lock().acceptor.clone())
    }

    fn look(&self) -> TlsAcceptor {
        let written = written(&self.file, &self.key_file).ok();
        let listener = &self.listener;
        let mut current = self.lock();
        if written.is_some() && written != current.written {
            // Also after a failure: a file that is wrong is told once.
            current.written = written;
            match server::config(&self.file, &self.key_file) {
                Ok(config) => {
                    current.acceptor = TlsAcceptor::from(config);
                    tracing::info!(event = "certificate_renewed", listener);
                }
                Err(error) => {
                    tracing::error!(event = "certificate_refused", listener, %error,
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

fn written(file: &Path, key_file: &Path) -> io::Result<(SystemTime, SystemTime)> {
    let at = |path| fs::metadata(path)?.modified();
    Ok((at(file)?, at(key_file)?))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Writes a fresh certificate, `seconds` after the epoch by the file system's word.
    fn write(files: &(PathBuf, PathBuf), seconds: u64) {
        let made = rcgen::generate_simple_self_signed(["console.example".to_owned()]).unwrap();
        fs::write(&files.0, made.cert.pem()).unwrap();
        fs::write(&files.1, made.signing_key.serialize_pem()).unwrap();
        stamp(files, seconds);
    }

    fn stamp(files: &(PathBuf, PathBuf), seconds: u64) {
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        for path in [&files.0, &files.1] {
            let file = fs::File::options().write(true).open(path).unwrap();
            file.set_modified(at).unwrap();
        }
    }

    #[tokio::test]
    async fn a_renewed_certificate_is_taken_and_a_broken_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let files = (path("cert.pem"), path("key.pem"));
        write(&files, 1);
        let renewing = Renewing::open("console", &files.0, &files.1).unwrap();
        let first = renewing.acceptor().await;
        let same = |a: &TlsAcceptor, b: &TlsAcceptor| Arc::ptr_eq(a.config(), b.config());
        assert!(same(&first, &renewing.acceptor().await));
        write(&files, 2);
        let second = renewing.acceptor().await;
        assert!(!same(&first, &second));
        fs::write(&files.0, "broken").unwrap();
        stamp(&files, 3);
        assert!(same(&second, &renewing.acceptor().await));
        fs::remove_file(&files.0).unwrap();
        assert!(same(&second, &renewing.acceptor().await));
    }
}
