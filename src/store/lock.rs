//! One process a state directory: an advisory lock that the kernel frees even after `kill -9`.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{self, Read, Seek, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use super::{Error, failure::Failure};

const FILE: &str = "lock";
/// A process id has ten digits at most; whatever else stands there is cut.
const HOLDER_LEN_MAX: u64 = 20;

/// Takes the lock and writes our process id into its file. Held until the file is dropped.
///
/// The file stays when the lock goes: removing it would let two processes lock two files of one
/// name.
pub(super) fn take(state_dir: &Path) -> Result<File, Error> {
    let failed = |error| Failure::io("locking the state directory", error).error();
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(super::body::NOFOLLOW)
        .open(state_dir.join(FILE))
        .map_err(failed)?;
    match file.try_lock() {
        Ok(()) => {
            write_pid(&mut file).map_err(failed)?;
            Ok(file)
        }
        Err(TryLockError::WouldBlock) => Err(Error::Locked {
            path: state_dir.to_owned(),
            holder: holder(&file),
        }),
        Err(TryLockError::Error(error)) => Err(failed(error)),
    }
}

fn write_pid(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())
}

fn holder(file: &File) -> String {
    let mut text = String::new();
    let read = file.take(HOLDER_LEN_MAX).read_to_string(&mut text);
    match (read, text.trim().parse::<u32>()) {
        (Ok(_), Ok(pid)) => format!("process {pid}"),
        _ => "another process".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_taker_is_told_who_holds_the_lock() {
        let dir = tempfile::tempdir().unwrap();
        let held = take(dir.path()).unwrap();
        let Err(Error::Locked { holder, .. }) = take(dir.path()) else {
            panic!("two holders");
        };
        assert_eq!(holder, format!("process {}", std::process::id()));
        drop(held);
        take(dir.path()).unwrap();
    }
}
