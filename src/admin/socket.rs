//! The control socket: 0600 from its first moment, and a dead process's socket is replaced.

use std::{
    fs::{self, DirBuilder, Permissions},
    io,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
};

use tokio::net::{UnixListener, UnixStream};

use super::Error;

/// The file permission is the login.
const SOCKET_MODE: u32 = 0o600;
/// For a directory that must be made for it.
const DIRECTORY_MODE: u32 = 0o700;

/// A bound control socket. Its file is removed when this is dropped.
#[derive(Debug)]
pub(super) struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.0) {
            tracing::debug!(event = "control_socket_left", %error);
        }
    }
}

/// Binds the control socket at `path`.
///
/// It is bound under another name, closed to others, and only then moved to its place, so no other
/// user can ever connect, and a stale socket is replaced in one step. (Two daemons that start in the
/// same instant cannot both get here: the store's lock was taken before.)
pub(super) async fn bind(path: &Path) -> Result<(UnixListener, SocketFile), Error> {
    if UnixStream::connect(path).await.is_ok() {
        return Err(Error::InUse { path: path.into() });
    }
    let listener = bind_closed(path).map_err(|source| Error::Socket {
        path: path.into(),
        source,
    })?;
    Ok((listener, SocketFile(path.into())))
}

fn bind_closed(path: &Path) -> io::Result<UnixListener> {
    if let Some(parent) = path.parent() {
        DirBuilder::new()
            .recursive(true)
            .mode(DIRECTORY_MODE)
            .create(parent)?;
    }
    let new = path.with_extension("new");
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&new)?;
    fs::set_permissions(&new, Permissions::from_mode(SOCKET_MODE))?;
    fs::rename(&new, path)?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A socket file that nobody listens on is replaced; one that answers is left alone.
    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run").join("control.sock");
        fs::create_dir(dir.path().join("run")).unwrap();
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "the stale socket's file is there");

        let (_listener, file) = bind(&path).await.unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(matches!(bind(&path).await, Err(Error::InUse { .. })));

        drop(file);
        assert!(!path.exists(), "nothing is left behind");
    }

    /// The directory is made, closed to others.
    #[tokio::test]
    async fn a_missing_directory_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state").join("control.sock");
        let _bound = bind(&path).await.unwrap();
        let mode = fs::metadata(path.parent().unwrap())
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o700);
    }
}
