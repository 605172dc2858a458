use std::{os::unix::fs::symlink, thread};

use pillion_policy::name::Hostname;

use super::*;
use crate::object::{Event, Object};

/// A directory under the system's own, gone when dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("pillion-dir-{name}-{}", std::process::id()));
        drop(fs::remove_dir_all(&path));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.0.join(name), text).unwrap();
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

fn service(port: u16) -> String {
    format!("apiVersion: v1\nkind: Service\nmetadata:\n  name: one\nspec:\n  ports: [{{port: {port}}}]\n")
}

fn ports(update: &Update) -> Vec<Option<u16>> {
    let port = |event: &Event| match event {
        Event::Delete(_) => None,
        Event::Apply(stored) => match &stored.object {
            Object::Service(service) => Some(service.ports[0].port),
            other => panic!("{other:?}"),
        },
    };
    update.events.iter().map(port).collect()
}

struct Watching {
    updates: mpsc::Receiver<Update>,
}

impl Watching {
    fn start(scratch: &Scratch) -> Self {
        let naming = Naming::new(&Hostname::new("cluster.local").unwrap());
        let directory = Directory::open(&scratch.0, naming).unwrap();
        let (sender, updates) = mpsc::channel(1);
        thread::spawn(move || directory.watch(&sender));
        Self { updates }
    }

    fn next(&mut self) -> Update {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let next = async { tokio::time::timeout(Duration::from_secs(10), self.updates.recv()).await };
        runtime.block_on(next).expect("no update within ten seconds").expect("the watch ended")
    }
}

#[test]
fn saves_renames_and_removals_are_seen() {
    let scratch = Scratch::new("saves");
    scratch.write("a.yaml", &service(80));
    let mut watching = Watching::start(&scratch);
    assert_eq!(ports(&watching.next()), [Some(80)]);

    scratch.write("a.yaml", &service(81));
    assert_eq!(ports(&watching.next()), [Some(81)]);

    scratch.write(".a.yaml.tmp", &service(82));
    fs::rename(scratch.0.join(".a.yaml.tmp"), scratch.0.join("a.yaml")).unwrap();
    assert_eq!(ports(&watching.next()), [Some(82)]);

    scratch.write("a.yaml", "broken: [");
    let update = watching.next();
    assert!(update.events.is_empty());
    assert_eq!(update.problems.len(), 1);

    fs::remove_file(scratch.0.join("a.yaml")).unwrap();
    assert_eq!(ports(&watching.next()), [None]);
}

#[test]
fn a_swapped_link_is_seen_as_in_mounted_config_maps() {
    let scratch = Scratch::new("swap");
    for (version, port) in [("..1", 80), ("..2", 81)] {
        fs::create_dir(scratch.0.join(version)).unwrap();
        scratch.write(&format!("{version}/a.yaml"), &service(port));
    }
    symlink("..1", scratch.0.join("..data")).unwrap();
    symlink("..data/a.yaml", scratch.0.join("a.yaml")).unwrap();
    let mut watching = Watching::start(&scratch);
    assert_eq!(ports(&watching.next()), [Some(80)]);

    symlink("..2", scratch.0.join("..data_tmp")).unwrap();
    fs::rename(scratch.0.join("..data_tmp"), scratch.0.join("..data")).unwrap();
    assert_eq!(ports(&watching.next()), [Some(81)]);
}

#[test]
fn files_in_new_directories_are_seen() {
    let scratch = Scratch::new("nested");
    let mut watching = Watching::start(&scratch);
    assert_eq!(ports(&watching.next()), []);
    fs::create_dir(scratch.0.join("team")).unwrap();
    scratch.write("team/a.yml", &service(80));
    assert_eq!(ports(&watching.next()), [Some(80)]);
}

#[test]
fn a_save_of_the_same_size_in_the_same_instant_is_read_when_noticed() {
    let scratch = Scratch::new("same");
    scratch.write("a.yaml", &service(80));
    let naming = Naming::new(&Hostname::new("cluster.local").unwrap());
    let mut directory = Directory::open(&scratch.0, naming).unwrap();
    let path = scratch.0.join("a.yaml").into_os_string();
    assert_eq!(ports(&directory.scan(&BTreeSet::new()).unwrap()), [Some(80)]);
    let identity = directory.seen[&path].clone();
    scratch.write("a.yaml", &service(81));
    // As a clock that stands still would have it.
    directory.seen.insert(path.clone(), list(&scratch.0).files[&path].clone());
    assert_ne!(identity.inode, 0);
    assert_eq!(ports(&directory.scan(&BTreeSet::from([path])).unwrap()), [Some(81)]);
}

#[test]
fn what_editors_leave_is_passed_over() {
    for name in [".a.yaml.swp", "a.yaml~", "#a.yaml#", "4913", ".#a.yaml", "a.yaml.bak", "README"] {
        assert!(!holds_objects(name), "{name}");
    }
    for name in ["a.yaml", "b.yml", "c.json"] {
        assert!(holds_objects(name), "{name}");
    }
}

#[test]
fn links_in_a_circle_are_not_followed_for_ever_and_only_files_are_read() {
    let scratch = Scratch::new("circle");
    fs::create_dir_all(scratch.0.join("a/b.yaml")).unwrap();
    scratch.write("a/b.yaml/c.yaml", &service(80));
    symlink("..", scratch.0.join("a/up")).unwrap();
    symlink(".", scratch.0.join("self")).unwrap();
    symlink("nowhere", scratch.0.join("d.yaml")).unwrap();
    let listing = list(&scratch.0);
    assert_eq!(listing.files.keys().collect::<Vec<_>>(), [scratch.0.join("a/b.yaml/c.yaml").as_os_str()]);
    assert!(listing.unlisted.is_empty());
}

#[test]
fn what_cannot_be_listed_is_said_and_stays_in_force() {
    let scratch = Scratch::new("hidden");
    scratch.write("a.yaml", &service(80));
    let naming = Naming::new(&Hostname::new("cluster.local").unwrap());
    let mut directory = Directory::open(&scratch.0, naming).unwrap();
    assert_eq!(ports(&directory.scan(&BTreeSet::new()).unwrap()), [Some(80)]);
    let hidden = scratch.0.with_extension("hidden");
    fs::rename(&scratch.0, &hidden).unwrap();
    let update = directory.scan(&BTreeSet::new()).unwrap();
    assert!(update.events.is_empty());
    assert!(update.problems[0].to_string().contains(":1: error: cannot be read: No such file"));
    assert!(directory.scan(&BTreeSet::new()).is_none());
    fs::rename(&hidden, &scratch.0).unwrap();
    let update = directory.scan(&BTreeSet::new()).unwrap();
    assert!(update.events.is_empty() && update.problems.is_empty());
}

#[test]
fn a_missing_directory_is_an_error() {
    let naming = Naming::new(&Hostname::new("cluster.local").unwrap());
    assert!(Directory::open(Path::new("/nonexistent/pillion"), naming).is_err());
}

#[test]
fn a_replaced_directory_is_watched_again() {
    let scratch = Scratch::new("replaced");
    scratch.write("a.yaml", &service(80));
    let mut watching = Watching::start(&scratch);
    assert_eq!(ports(&watching.next()), [Some(80)]);
    fs::remove_dir_all(&scratch.0).unwrap();
    fs::create_dir(&scratch.0).unwrap();
    scratch.write("a.yaml", &service(81));
    // The files may be seen gone in between.
    let mut last = Vec::new();
    while last != [Some(81)] {
        last = ports(&watching.next());
    }
    scratch.write("a.yaml", &service(82));
    assert_eq!(ports(&watching.next()), [Some(82)]);
}
