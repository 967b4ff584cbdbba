//! File systems made for a test and gone after it.

use std::{
    fs::File,
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

fn run(command: &str, arguments: &[&str]) -> Result<(), String> {
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let output = Command::new(command).args(arguments).env("PATH", path).stdin(Stdio::null()).output();
    match output {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!("{command} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr).trim())),
        Err(error) => Err(format!("{command}: {error}")),
    }
}

/// A mounted file system. Dropped, it is unmounted: at once from its folder, wholly when the last process has left it. So it is
/// dropped before the site whose folder it is in, which is what happens to it as the later variable.
pub struct Mount {
    at: PathBuf,
}

impl Mount {
    fn new(at: &Path, arguments: &[&str]) -> Result<Self, String> {
        std::fs::create_dir_all(at).unwrap();
        run("mount", &[arguments, &[at.to_str().unwrap()]].concat())?;
        Ok(Self { at: at.to_owned() })
    }

    /// Memory, within these bounds: `size=2m`, `nr_inodes=20`.
    pub fn tmpfs(at: &Path, options: &str) -> Result<Self, String> {
        if !crate::tools::is_root() {
            return Err("mounting needs root".into());
        }
        Self::new(at, &["-t", "tmpfs", "-o", &format!("{options},mode=755"), "none"])
    }

    /// Changes its options: `ro`, `rw`.
    pub fn remount(&self, options: &str) {
        run("mount", &["-o", &format!("remount,{options}"), self.at.to_str().unwrap()]).unwrap();
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = run("umount", &["-l", self.at.to_str().unwrap()]);
    }
}

/// A disk in a file, whose power can be cut.
pub struct Disk {
    image: PathBuf,
    at: PathBuf,
    mount: Option<Mount>,
}

impl Disk {
    /// Makes a file system of this kind, `ext4` or `xfs`, and mounts it. An error says why this machine cannot.
    pub fn new(kind: &str, image: &Path, at: &Path) -> Result<Self, String> {
        if !crate::tools::is_root() {
            return Err("mounting needs root".into());
        }
        let mebibytes = if kind == "xfs" { 320 } else { 64 };
        File::create(image).unwrap().set_len(mebibytes << 20).unwrap();
        let quietly = if kind == "xfs" { ["-q", "-f"] } else { ["-q", "-F"] };
        run(&format!("mkfs.{kind}"), &[&quietly[..], &[image.to_str().unwrap()]].concat())?;
        let mut disk = Self { image: image.to_owned(), at: at.to_owned(), mount: None };
        disk.mount()?;
        Ok(disk)
    }

    fn mount(&mut self) -> Result<(), String> {
        self.mount = Some(Mount::new(&self.at, &["-o", "loop,noatime", self.image.to_str().unwrap()])?);
        Ok(())
    }

    /// Cuts the power: what has not reached the disk never will.
    pub fn cut_power(&self) {
        /// `FS_IOC_SHUTDOWN`, that is `_IOR('X', 125, u32)`, of ext4 and xfs.
        const SHUTDOWN: libc::c_ulong = 0x8004_587D;
        /// Without writing anything out, not even the journal.
        const NO_FLUSH: u32 = 2;
        let flags = NO_FLUSH;
        let folder = File::open(&self.at).unwrap();
        // SAFETY: the call reads one u32, which lives until it returns.
        let result = unsafe { libc::ioctl(folder.as_raw_fd(), SHUTDOWN as _, &raw const flags) };
        assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    }

    /// Power is back. Nobody may have a file of it open any more.
    pub fn restore_power(&mut self) {
        run("umount", &[self.at.to_str().unwrap()]).unwrap();
        // It is unmounted: there is nothing left to drop.
        std::mem::forget(self.mount.take());
        self.mount().unwrap();
    }
}
