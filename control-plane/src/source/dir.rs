//! Watches a directory of YAML files.
//!
//! The directory is walked when something in it stirs, and now and then in case a notice was lost; a file is read when
//! a notice named it or its metadata differ from what they were. So it does not matter how an editor saves: in place,
//! by renaming a temporary file, or by swapping a symbolic link as mounted ConfigMaps do. Notices are gathered for
//! [`QUIET`], at most [`PATIENCE`], so that a save is in force at once and a stream of writes does not starve it.
//!
//! All of this is blocking I/O and runs on a thread of its own.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    fs,
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    time::Duration,
};

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::{sync::mpsc, time::Instant};

use super::{Update, files::Files};
use crate::naming::Naming;

/// Silence after which a change counts as complete.
const QUIET: Duration = Duration::from_millis(20);
/// Longest wait for silence.
const PATIENCE: Duration = Duration::from_millis(100);
/// How often the directory is walked without a notice: with a working watch, and without one.
const POLL: (Duration, Duration) = (Duration::from_secs(2), Duration::from_millis(200));
/// Walks without a notice take at most one part in so many of the time.
const POLL_SHARE: u32 = 50;
/// Largest file that is read.
const MAX_FILE: u64 = 256 * 1024 * 1024;
/// A directory of objects.
#[derive(Debug)]
pub(crate) struct Directory {
    root: PathBuf,
    files: Files,
    /// How long the last walk took.
    walk_time: Duration,
    // Paths are kept as plain text: comparing them part by part is slow.
    seen: BTreeMap<OsString, Identity>,
    /// Files that were empty at the last walk and had content before: most likely about to be written.
    emptied: BTreeSet<OsString>,
    /// Directories that could not be listed at the last walk.
    unlisted: BTreeSet<PathBuf>,
}

/// What tells one content of a file from another without reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// Paths that notices named since they were last looked at, and the bell that says so.
#[derive(Debug, Clone)]
struct Notices {
    paths: Arc<Mutex<BTreeSet<OsString>>>,
    bell: SyncSender<()>,
}

impl Directory {
    /// A directory, which must exist.
    pub(crate) fn open(root: &Path, naming: Naming) -> io::Result<Self> {
        fs::read_dir(root)?;
        Ok(Self {
            root: root.to_owned(),
            files: Files::new(naming),
            walk_time: Duration::ZERO,
            seen: BTreeMap::new(),
            emptied: BTreeSet::new(),
            unlisted: BTreeSet::new(),
        })
    }

    /// Sends the objects and then every change, until nobody listens.
    pub(crate) fn watch(mut self, updates: &mpsc::Sender<Update>) {
        let (bell, rings) = sync_channel(1);
        let notices = Notices { paths: Arc::default(), bell };
        // The watch must stand before the first walk, or a change between the two would wait for the next poll.
        let mut watched = self.inode();
        let mut watcher = self.start_watcher(notices.clone());
        let mut noticed = Instant::now();
        loop {
            if let Some(update) = self.scan(&notices.take())
                && updates.blocking_send(Update { noticed: Some(noticed), ..update }).is_err()
            {
                return;
            }
            let pause = if watcher.is_some() { POLL.0 } else { POLL.1 };
            noticed = wait(&rings, pause.max(self.walk_time * POLL_SHARE));
            // A directory that was replaced by another takes the watch with it.
            if self.inode() != watched {
                watched = self.inode();
                watcher = self.start_watcher(notices.clone());
            }
            if updates.is_closed() {
                return;
            }
        }
    }

    fn start_watcher(&self, notices: Notices) -> Option<RecommendedWatcher> {
        let start = || {
            let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
                // Reading files makes notices too; they would keep us awake for ever.
                if let Ok(event) = event
                    && !event.kind.is_access()
                {
                    notices.add(event.paths);
                }
            })?;
            watcher.watch(&self.root, RecursiveMode::Recursive)?;
            Ok::<_, notify::Error>(watcher)
        };
        start()
            .inspect_err(
                |error| tracing::warn!(dir = %self.root.display(), %error, "cannot watch, polling instead"),
            )
            .ok()
    }

    fn inode(&self) -> Option<u64> {
        fs::metadata(&self.root).ok().map(|meta| meta.ino())
    }

    /// Walks the directory and takes in what is new.
    pub(crate) fn scan(&mut self, noticed: &BTreeSet<OsString>) -> Option<Update> {
        let start = Instant::now();
        let listing = list(&self.root);
        self.walk_time = start.elapsed();
        for (path, identity) in &listing.files {
            let just_emptied = identity.size == 0 && self.seen.get(path).is_some_and(|seen| seen.size > 0);
            if just_emptied && self.emptied.insert(path.clone()) {
                continue;
            }
            if self.seen.get(path) != Some(identity) || noticed.contains(path) {
                self.emptied.remove(path);
                let name = path.to_string_lossy();
                match read(Path::new(path)) {
                    Ok(content) => self.files.put(&name, &content),
                    // It went away between the walk and now; the next walk settles it.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    Err(error) => self.files.unreadable(&name, &error.to_string()),
                }
                self.seen.insert(path.clone(), identity.clone());
            }
        }
        // What could not be listed is not gone.
        let hidden =
            |path: &OsString| Path::new(path).ancestors().any(|parent| listing.unlisted.contains_key(parent));
        let gone = self.seen.keys().filter(|path| !listing.files.contains_key(*path) && !hidden(path));
        for path in gone.cloned().collect::<Vec<OsString>>() {
            self.seen.remove(&path);
            self.files.remove(&path.to_string_lossy());
        }
        self.note_unlisted(&listing.unlisted);
        self.files.update()
    }

    fn note_unlisted(&mut self, unlisted: &BTreeMap<PathBuf, String>) {
        for listed in self.unlisted.iter().filter(|dir| !unlisted.contains_key(*dir)) {
            self.files.remove(&listed.to_string_lossy());
        }
        for (dir, error) in unlisted {
            self.files.unreadable(&dir.to_string_lossy(), error);
        }
        self.unlisted = unlisted.keys().cloned().collect();
    }
}

impl Notices {
    fn add(&self, paths: Vec<PathBuf>) {
        self.paths
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend(paths.into_iter().map(OsString::from));
        // A full bell has been rung already.
        let _ = self.bell.try_send(());
    }

    fn take(&self) -> BTreeSet<OsString> {
        std::mem::take(&mut self.paths.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Waits for a notice and the silence after it, or for the next poll. Returns when the notice came, or the poll began.
fn wait(rings: &Receiver<()>, poll: Duration) -> Instant {
    let is_noticed = rings.recv_timeout(poll).is_ok();
    let noticed = Instant::now();
    if !is_noticed {
        return noticed;
    }
    let end = noticed + PATIENCE;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        match rings.recv_timeout(QUIET.min(left)) {
            Ok(()) if !left.is_zero() => {}
            Ok(()) | Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return noticed,
        }
    }
}

/// What a walk through a directory finds.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    /// The files that hold objects.
    pub(crate) files: BTreeMap<OsString, Identity>,
    /// Directories that cannot be listed, and why.
    pub(crate) unlisted: BTreeMap<PathBuf, String>,
}

/// Finds the files that hold objects, at any depth; symbolic links are followed, names that start with a dot are not.
pub(crate) fn list(root: &Path) -> Listing {
    let mut listing = Listing::default();
    let mut parents = fs::metadata(root).iter().map(|meta| (meta.dev(), meta.ino())).collect();
    if let Err(error) = listing.enter(root, &mut parents) {
        listing.unlisted.insert(root.to_owned(), error.to_string());
    }
    listing
}

impl Listing {
    /// `parents` are the directories above, by device and inode: one that links to itself is not entered again.
    fn enter(&mut self, dir: &Path, parents: &mut Vec<(u64, u64)>) -> io::Result<()> {
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name.starts_with('.') {
                continue;
            }
            // A link that leads nowhere, or a file that has just gone.
            let Ok(meta) = fs::metadata(&path) else { continue };
            let place = (meta.dev(), meta.ino());
            if meta.is_dir() && !parents.contains(&place) {
                parents.push(place);
                match self.enter(&path, parents) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        self.unlisted.insert(path, error.to_string());
                    }
                    Ok(()) | Err(_) => {}
                }
                parents.pop();
            } else if meta.is_file() && holds_objects(&name) {
                let identity = Identity {
                    device: meta.dev(),
                    inode: meta.ino(),
                    size: meta.size(),
                    modified: (meta.mtime(), meta.mtime_nsec()),
                    changed: (meta.ctime(), meta.ctime_nsec()),
                };
                self.files.insert(path.into(), identity);
            }
        }
        Ok(())
    }
}

/// Whether a file is one of ours, and not what an editor leaves beside it (`#x.yaml#`, `x.yaml~`, `.x.yaml.swp`, `4913`).
fn holds_objects(name: &str) -> bool {
    let extension = name.rsplit_once('.').map(|(_, extension)| extension);
    !name.starts_with(['.', '#']) && matches!(extension, Some("yaml" | "yml" | "json"))
}

/// The content of a file, which need not be a regular one.
pub(crate) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    fs::File::open(path)?.take(MAX_FILE + 1).read_to_end(&mut content)?;
    if content.len() as u64 > MAX_FILE {
        return Err(io::Error::other(format!("larger than {MAX_FILE} bytes")));
    }
    Ok(content)
}

#[cfg(test)]
mod tests;
