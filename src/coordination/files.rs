//! Leases as files in the store: created exclusively, touched while their holder lives, taken over by a rename.
//!
//! No lock of the file system is used: those of network file systems differ in what they promise, and are lost with a server's
//! restart. Exclusive creation and rename are atomic on all of them (NFS since version 3).

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rustix::{
    fs::{Mode, OFlags, RenameFlags, Timespec, Timestamps, UTIME_NOW},
    io::Errno,
};

use super::{
    Away, Claim, Coordinator, Lease, Pending, Watch,
    lease::{BEATS, ROUNDS, Sign},
};
use crate::{
    config::StoreConfig,
    model::{RenditionKey, key::LAYOUT},
    store::{DRAFTS, LEASE, Lives, Owner, Tree, draft_name},
};

/// Longest mark of an owner that is read.
const MARK_BYTES: u64 = 256;

/// Leases in a folder that the gates share.
pub struct LeaseFiles {
    inner: Arc<Inner>,
}

struct Inner {
    tree: Tree,
    owner: Owner,
    counter: AtomicU64,
    abandoned_after: Duration,
}

impl LeaseFiles {
    /// Leases of a store in a folder; one without a sign of life for `abandoned_after` is taken over.
    pub fn new(store: &StoreConfig, abandoned_after: Duration) -> Self {
        let (tree, owner) = (Tree::new(store), Owner::this_process());
        let inner = Inner { tree, owner, counter: AtomicU64::new(0), abandoned_after };
        Self { inner: Arc::new(inner) }
    }
}

impl Inner {
    fn folder(&self) -> PathBuf {
        self.tree.root().join(LAYOUT).join(DRAFTS)
    }

    fn path(&self, key: &RenditionKey) -> PathBuf {
        let name = key.path().rsplit('/').next().unwrap_or_default();
        self.folder().join(format!("{LEASE}{name}"))
    }

    /// Creates a lease, if there is none: its mark.
    fn create(&self, path: &Path) -> io::Result<Option<String>> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let create = || rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR);
        let created = match create() {
            Err(Errno::NOENT) => {
                // Before the first rendition of all, or after somebody has emptied the store.
                self.tree.make_dir(&format!("{LAYOUT}/{DRAFTS}"))?;
                create()
            }
            result => result,
        };
        let fd = match created {
            Err(Errno::EXIST) => return Ok(None),
            result => result?,
        };
        let mark = self.owner.mark(self.counter.fetch_add(1, Ordering::Relaxed));
        let written = File::from(fd).write_all(mark.as_bytes());
        // A lease without an owner would hold everybody up.
        written.inspect_err(|_| _ = std::fs::remove_file(path))?;
        Ok(Some(mark))
    }

    /// The holder's last sign of life, if there is a lease. Opened anew each time: a network file system asks the server then.
    fn look(&self, path: &Path) -> io::Result<Option<Sign>> {
        use std::os::unix::fs::OpenOptionsExt as _;
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file = match File::options().read(true).custom_flags(flags.bits() as i32).open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            result => result?,
        };
        let metadata = file.metadata()?;
        let mut mark = Vec::new();
        file.take(MARK_BYTES).read_to_end(&mut mark)?;
        let beat = i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec());
        Ok(Some((String::from_utf8_lossy(&mark).into_owned(), beat)))
    }

    /// Takes a lease away whose holder `mark` is. Two waiters may try at once: the rename lets one of them have it, and whoever
    /// finds a living one in its hand puts it back.
    fn take_away(&self, path: &Path, mark: &str) -> io::Result<()> {
        let number = self.counter.fetch_add(1, Ordering::Relaxed);
        let aside = self.folder().join(draft_name(&self.owner, number));
        match std::fs::rename(path, &aside) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            result => result?,
        }
        match self.look(&aside)? {
            Some((of, _)) if of != mark => {
                let cwd = rustix::fs::CWD;
                // Where the file system cannot, or another was created meanwhile, two gates render: no harm but the work.
                let _ = rustix::fs::renameat_with(cwd, &aside, cwd, path, RenameFlags::NOREPLACE);
                let _ = std::fs::remove_file(&aside);
                Ok(())
            }
            _ => std::fs::remove_file(&aside),
        }
    }

    /// The mark of a lease that is ours now, and whether it was taken from a dead holder.
    fn claim(&self, path: &Path, watch: &mut Watch) -> io::Result<Option<(String, bool)>> {
        let mut taken_over = false;
        for _ in 0..ROUNDS {
            if let Some(mark) = self.create(path)? {
                return Ok(Some((mark, taken_over)));
            }
            let Some(sign) = self.look(path)? else { continue };
            let is_dead = self.owner.is_gone(&sign.0, &mut Lives::new());
            if !is_dead && watch.unchanged_since(sign.clone()).elapsed() < self.abandoned_after {
                return Ok(None);
            }
            self.take_away(path, &sign.0)?;
            taken_over = true;
        }
        Ok(None)
    }

    /// A sign of life. By the server's clock, where there is one.
    fn touch(&self, path: &Path) -> io::Result<()> {
        let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
        let times = Timestamps { last_access: now, last_modification: now };
        let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
        Ok(rustix::fs::utimensat(rustix::fs::CWD, path, &times, flags)?)
    }

    /// Removes a lease if it is still ours: a gate that slept too long has lost it.
    fn release(&self, path: &Path, mark: &str) -> io::Result<()> {
        match self.look(path)? {
            Some((of, _)) if of == mark => std::fs::remove_file(path),
            _ => Ok(()),
        }
    }
}

/// File systems may block, network ones for long.
async fn blocking<T: Send + 'static>(call: impl FnOnce() -> io::Result<T> + Send + 'static) -> Result<T, Away> {
    tokio::task::spawn_blocking(call).await.map_err(Away::new)?.map_err(|error| Away(format!("a lease: {error}")))
}

impl Coordinator for LeaseFiles {
    fn claim<'a>(&'a self, key: &'a RenditionKey, watch: &'a mut Watch) -> Pending<'a, Claim> {
        Box::pin(async move {
            let path = self.inner.path(key);
            let (inner, at, mut seen) = (self.inner.clone(), path.clone(), std::mem::take(watch));
            let (claimed, seen) = blocking(move || {
                let claimed = inner.claim(&at, &mut seen);
                claimed.map(|claimed| (claimed, seen))
            })
            .await?;
            *watch = seen;
            let Some((mark, taken_over)) = claimed else { return Ok(Claim::Theirs) };
            let pause = self.inner.abandoned_after / BEATS;
            let (inner, at) = (self.inner.clone(), path.clone());
            let heartbeat = async move {
                loop {
                    tokio::time::sleep(pause).await;
                    let (inner, at) = (inner.clone(), at.clone());
                    // What is lost is lost: the render goes on, and at worst another one begins.
                    let _ = blocking(move || inner.touch(&at)).await;
                }
            };
            let inner = self.inner.clone();
            let release = async move {
                let _ = blocking(move || inner.release(&path, &mark)).await;
            };
            Ok(Claim::Mine(Lease::new(heartbeat, release, taken_over)))
        })
    }

    fn probe(&self) -> Pending<'_, String> {
        Box::pin(std::future::ready(Ok("by lease files in the store".to_owned())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        coordination::turn::tests::store,
        model::{ImageFormat, MediaPath, SourceRef, SourceVersion},
    };

    fn key(recipe: &str) -> RenditionKey {
        let location = SourceRef { source: "media".into(), path: MediaPath::parse("a.jpg").unwrap() };
        let version = SourceVersion { bytes: 1, modified_ns: 2, etag: None, file_hash: None };
        RenditionKey::new(&location, &version, recipe, ImageFormat::Webp)
    }

    fn leases(folder: &tempfile::TempDir, abandoned_after: Duration, owner: Owner) -> LeaseFiles {
        let LeaseFiles { inner } = LeaseFiles::new(&store(folder.path()), abandoned_after);
        let inner = Arc::into_inner(inner).unwrap();
        LeaseFiles { inner: Arc::new(Inner { owner, ..inner }) }
    }

    async fn claim(leases: &LeaseFiles, watch: &mut Watch) -> Option<Lease> {
        match leases.claim(&key("x"), watch).await.unwrap() {
            Claim::Mine(lease) => Some(lease),
            Claim::Theirs | Claim::Nobodys => None,
        }
    }

    const LONG: Duration = Duration::from_secs(60);
    const SHORT: Duration = Duration::from_millis(200);

    #[tokio::test]
    async fn one_has_it_until_it_is_given_back() {
        let folder = tempfile::tempdir().unwrap();
        let (here, there) =
            (leases(&folder, LONG, Owner::this_process()), leases(&folder, LONG, Owner::like(Some("there"), 1, None)));
        let mut watch = Watch::default();
        let lease = claim(&here, &mut watch).await.unwrap();
        assert!(claim(&there, &mut watch).await.is_none() && claim(&here, &mut watch).await.is_none());
        lease.release().await;
        let lease = claim(&there, &mut watch).await.unwrap();
        assert!(!lease.taken_over);
        drop(lease);
        let folder = folder.path().join(LAYOUT).join(DRAFTS);
        crate::coordination::turn::tests::eventually(|| std::fs::read_dir(&folder).unwrap().count() == 0).await;
    }

    #[tokio::test]
    async fn folders_that_a_lease_makes_are_like_the_stores_own() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("renditions");
        // Neither what a umask leaves of 0777, nor what it lets through.
        for dir_mode in [0o775, 0o700] {
            let config = StoreConfig { dir_mode: crate::config::Mode(dir_mode), ..store(&root) };
            let leases = LeaseFiles::new(&config, LONG);
            let lease = claim(&leases, &mut Watch::default()).await.unwrap();
            for made in [root.clone(), root.join(LAYOUT), root.join(LAYOUT).join(DRAFTS)] {
                let mode = std::fs::metadata(&made).unwrap().permissions().mode() & 0o7777;
                assert_eq!(mode, dir_mode, "{made:?} {mode:o}");
            }
            lease.release().await;
            std::fs::remove_dir_all(&root).unwrap();
        }
        let nowhere = store(&folder.path().join("not-mounted/renditions"));
        let claimed = LeaseFiles::new(&nowhere, LONG).claim(&key("x"), &mut Watch::default()).await;
        assert!(
            claimed.is_err() && !folder.path().join("not-mounted").exists(),
            "the root's parents are not its to make"
        );
    }

    #[tokio::test]
    async fn a_living_holder_keeps_it_and_a_silent_one_loses_it() {
        let folder = tempfile::tempdir().unwrap();
        let far = leases(&folder, SHORT, Owner::like(Some("far"), 1, None));
        let here = leases(&folder, SHORT, Owner::this_process());
        let mut watch = Watch::default();
        let mut lease = claim(&far, &mut watch).await.unwrap();
        let started = std::time::Instant::now();
        while started.elapsed() < SHORT * 4 {
            assert!(claim(&here, &mut watch).await.is_none());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        lease.freeze();
        let mut waited = std::time::Instant::now();
        let mine = loop {
            if let Some(lease) = claim(&here, &mut watch).await {
                break lease;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        assert!(mine.taken_over && waited.elapsed() < SHORT * 5, "{:?}", waited.elapsed());
        // It wakes up, and must not take away what is another's now.
        lease.release().await;
        waited = std::time::Instant::now();
        assert!(claim(&far, &mut Watch::default()).await.is_none(), "{waited:?}");
        mine.release().await;
    }

    #[tokio::test]
    async fn a_dead_process_of_this_host_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let dead = leases(&folder, LONG, Owner::like(None, u32::MAX - 1, Some("1")));
        claim(&dead, &mut Watch::default()).await.unwrap().die();
        let here = leases(&folder, LONG, Owner::this_process());
        assert!(claim(&here, &mut Watch::default()).await.is_some_and(|lease| lease.taken_over));
    }

    #[tokio::test]
    async fn who_takes_over_too_late_puts_it_back() {
        let folder = tempfile::tempdir().unwrap();
        let here = leases(&folder, LONG, Owner::this_process());
        let lease = claim(&here, &mut Watch::default()).await.unwrap();
        let path = here.inner.path(&key("x"));
        here.inner.take_away(&path, "somebody-1-1-0").unwrap();
        assert!(path.exists());
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        lease.release().await;
        assert!(!path.exists());
    }
}
