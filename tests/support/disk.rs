//! Small file systems of their own: to fill them up, and to cut their power.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use super::{need_root, program};

/// A mounted file system. Unmounted when dropped.
#[derive(Debug)]
pub(crate) struct Disk {
    at: PathBuf,
}

impl Disk {
    /// Memory of this size.
    pub(crate) fn tmpfs(at: &Path, size: &str) -> Self {
        Self::mount(
            at,
            &[
                "-t",
                "tmpfs",
                "-o",
                &format!("size={size},mode=0700"),
                "tmpfs",
            ],
        )
    }

    /// The file system in an image.
    ///
    /// Nothing is written by the passing of time: what is on the image was asked for by a sync.
    pub(crate) fn image(at: &Path, image: &Path) -> Self {
        Self::mount(at, &["-o", "loop,commit=300", image.to_str().unwrap()])
    }

    fn mount(at: &Path, arguments: &[&str]) -> Self {
        need_root("a file system of its own is mounted");
        fs::create_dir_all(at).unwrap();
        let mut command = Command::new(program("mount", "mount"));
        let status = command.args(arguments).arg(at).status().unwrap();
        assert!(status.success(), "mount {arguments:?}: {status}");
        Self { at: at.into() }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: a killed process may not have let go yet.
        let _unmounted = Command::new("umount").arg("--lazy").arg(&self.at).status();
    }
}

/// Makes an image with an empty ext4 file system.
pub(crate) fn make_image(image: &Path, mebibytes: u64) {
    fs::File::create(image)
        .unwrap()
        .set_len(mebibytes * 1024 * 1024)
        .unwrap();
    let mut command = Command::new(program("mkfs.ext4", "e2fsprogs"));
    let status = command.args(["-q", "-F"]).arg(image).status().unwrap();
    assert!(status.success(), "mkfs.ext4: {status}");
}

/// The image as a power cut at this moment would leave it: what is only in memory is not in it.
pub(crate) fn cut_power(image: &Path, copy: &Path) {
    let mut command = Command::new(program("cp", "coreutils"));
    let status = command
        .arg("--sparse=always")
        .args([image, copy])
        .status()
        .unwrap();
    assert!(status.success(), "cp: {status}");
}
