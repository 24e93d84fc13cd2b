//! Free space, asked before anything is added: mail that waits must be able to leave.
//!
//! Recording that a message was delivered needs space too (the journal grows before the table
//! shrinks). Were acceptance to use the last block, nothing could be settled, nothing would get
//! free, and what was delivered would be sent again. So new mail is refused (452) while less than
//! the reserve is free, and settling goes on.
//!
//! The database's file never shrinks: what has left leaves free pages in it, which the next mail takes
//! and the file system does not know of. So they count, or a disk that was full once would stay so.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use rustix::fs::statvfs;

use super::{
    DATABASE,
    failure::{Failure, Fault, of_io},
    writer::{GROUP_BYTES_MAX, WAL_BYTES_MAX},
};

/// The journal may grow to its limit and by one commit beyond, and all of that be copied into the
/// table: so much of each is kept free of new mail.
const RESERVE_BYTES: u64 = WAL_BYTES_MAX + GROUP_BYTES_MAX;
/// Files the database may still have to make (journal, its index, a body, a probe).
const RESERVE_FILES: u64 = 8;
const PROBE_FILE: &str = "probe";
/// More than a block of any file system.
const PROBE_LEN: usize = 128 * 1024;

/// The file system under the state directory.
#[derive(Debug, Clone)]
pub(super) struct Space {
    dir: Arc<PathBuf>,
    journal: Arc<PathBuf>,
    /// Octets of the table's free pages.
    spare: Arc<AtomicU64>,
}

/// How much of the file system is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FreeSpace {
    /// Octets that may still be written.
    pub free_bytes: u64,
    /// Octets in all.
    pub size_bytes: u64,
}

impl FreeSpace {
    /// Whether a person should make room: less than a tenth is free, and less than 512 MiB. A large
    /// disk may be nearly full for years, and a small one has never much.
    #[must_use]
    pub fn is_low(self) -> bool {
        self.free_bytes < LOW_BYTES.min(self.size_bytes / LOW_PART)
    }
}

const LOW_BYTES: u64 = 512 * 1024 * 1024;
const LOW_PART: u64 = 10;

#[derive(Debug, thiserror::Error)]
#[error("{free} bytes and {files} files free under {}, {wanted} and {RESERVE_FILES} are wanted, so that what is queued can be settled", dir.display())]
struct Short {
    dir: PathBuf,
    free: u64,
    wanted: u64,
    files: u64,
}

impl Space {
    pub(super) fn new(dir: &Path) -> Self {
        Self {
            dir: Arc::new(dir.to_owned()),
            journal: Arc::new(dir.join(format!("{DATABASE}-wal"))),
            spare: Arc::default(),
        }
    }

    pub(super) fn free(&self) -> Option<FreeSpace> {
        let stat = statvfs(self.dir.as_path()).ok()?;
        Some(FreeSpace {
            free_bytes: stat.f_bavail.saturating_mul(stat.f_frsize),
            size_bytes: stat.f_blocks.saturating_mul(stat.f_frsize),
        })
    }

    /// The table has so many octets of free pages now.
    pub(super) fn note_spare(&self, octets: u64) {
        self.spare.store(octets, Ordering::Relaxed);
    }

    /// `Err` when fewer than `wanted` bytes could be added. Two cheap system calls.
    pub(super) fn require(&self, wanted: u64) -> Result<(), Failure> {
        // None yet, or not to be seen: then it takes all of its room still.
        let journal = std::fs::metadata(self.journal.as_path()).map_or(0, |file| file.len());
        let wanted = room_for(wanted, self.spare.load(Ordering::Relaxed), journal);
        let Ok(stat) = statvfs(self.dir.as_path()) else {
            // Cannot tell: the write itself will.
            return Ok(());
        };
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        // Some file systems (btrfs) do not count files.
        let files = if stat.f_files == 0 {
            u64::MAX
        } else {
            stat.f_favail
        };
        if free >= wanted && files >= RESERVE_FILES {
            return Ok(());
        }
        Err(Failure {
            fault: Fault::Full,
            operation: "looking for free space",
            source: Arc::new(Short {
                dir: self.dir.to_path_buf(),
                free,
                wanted,
                files,
            }),
        })
    }

    /// What a doubtful failure was: writes a little, and sees whether space or quota is the reason.
    pub(super) fn probe(&self) -> Fault {
        let path = self.dir.join(PROBE_FILE);
        let written = write_probe(&path);
        if let Err(error) = std::fs::remove_file(&path) {
            tracing::debug!(%error, "probe file not removed");
        }
        match written {
            Err(error) if of_io(&error) == Fault::Full => Fault::Full,
            Ok(()) | Err(_) => Fault::Broken,
        }
    }
}

/// What the file system must have for `wanted` more octets in the table and the reserve: the table takes
/// its own `spare` pages first, and the journal has `journal` octets already.
fn room_for(wanted: u64, spare: u64, journal: u64) -> u64 {
    let table = RESERVE_BYTES.saturating_add(wanted).saturating_sub(spare);
    table.saturating_add(RESERVE_BYTES.saturating_sub(journal))
}

fn write_probe(path: &Path) -> io::Result<()> {
    let mut file = std::fs::File::create(path)?;
    file.write_all(&vec![0x55; PROBE_LEN])?;
    file.sync_data()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn low_is_little_in_both_measures() {
        const MIB: u64 = 1024 * 1024;
        for (free, size, low) in [
            (600 * MIB, 100_000 * MIB, false),
            (500 * MIB, 100_000 * MIB, true),
            (90 * MIB, 1_000 * MIB, true),
            (110 * MIB, 1_000 * MIB, false),
        ] {
            let space = FreeSpace {
                free_bytes: free,
                size_bytes: size,
            };
            assert_eq!(space.is_low(), low, "{space:?}");
        }
    }

    /// What has left makes room for what comes, and the journal's room is counted once.
    #[test]
    fn room_that_the_files_have_already_is_not_wanted_again() {
        const MIB: u64 = 1024 * 1024;
        assert_eq!(room_for(0, 0, 0), 2 * RESERVE_BYTES);
        assert_eq!(room_for(MIB, 0, 0), 2 * RESERVE_BYTES + MIB);
        assert_eq!(room_for(MIB, MIB, 0), 2 * RESERVE_BYTES);
        assert_eq!(room_for(MIB, 0, MIB), 2 * RESERVE_BYTES);
        // A table with room enough for all of it: the journal's is what is left to want.
        assert_eq!(room_for(MIB, 100 * MIB, 0), RESERVE_BYTES);
        assert_eq!(room_for(MIB, 100 * MIB, RESERVE_BYTES), 0);
        // A journal that a long listing let grow lends nothing to the table.
        assert_eq!(room_for(0, 0, 100 * MIB), RESERVE_BYTES);
        assert_eq!(room_for(u64::MAX, 0, 0), u64::MAX);
    }
}
