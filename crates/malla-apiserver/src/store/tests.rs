//! The store against restarts, `kill -9`, a full disk, and a slow oracle.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use malla_apimachinery::meta::ObjectKey;
use proptest::prelude::*;
use redb::{Database, StorageBackend};
use serde_json::{Value, json};

use super::{Disk, Expect, Position, Store, Write, WriteError};

const CHILD_STORE: &str = "MALLA_TEST_CHILD_STORE";

fn key(name: &str) -> ObjectKey {
    ObjectKey {
        namespace: "default".to_owned(),
        name: name.to_owned(),
    }
}

fn put(name: &str, expect: Expect, value: u64) -> Write {
    Write {
        resource: "configmaps".into(),
        key: key(name),
        expect,
        object: Some(json!({"metadata": {"name": name}, "value": value})),
    }
}

fn open(path: &std::path::Path) -> Store {
    Store::start(Store::open_disk(path).unwrap(), 16).unwrap()
}

#[tokio::test]
async fn versions_count_up_and_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = open(&path);
    assert_eq!(
        store
            .write(put("a", Expect::Absent, 1))
            .await
            .unwrap()
            .version,
        1
    );
    assert_eq!(
        store
            .write(put("b", Expect::Absent, 1))
            .await
            .unwrap()
            .version,
        2
    );
    assert_eq!(
        store
            .write(put("a", Expect::Version(1), 2))
            .await
            .unwrap()
            .version,
        3
    );
    assert_eq!(
        store.write(put("a", Expect::Absent, 3)).await.unwrap_err(),
        WriteError::Exists
    );
    let stale = store.write(put("a", Expect::Version(1), 3)).await;
    assert_eq!(stale.unwrap_err(), WriteError::Changed);
    drop(store);
    let store = open(&path);
    let a = store.get("configmaps", &key("a")).unwrap();
    assert_eq!((a.version, &a.object["value"]), (3, &json!(2)));
    assert_eq!(
        store
            .write(put("c", Expect::Absent, 1))
            .await
            .unwrap()
            .version,
        4
    );
}

/// Each refusal has a winner of its own, so nobody loses more often than there are others.
#[tokio::test(flavor = "multi_thread")]
async fn a_race_is_lost_to_each_rival_once() {
    const RIVALS: usize = 24;
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("store"));
    store.write(put("a", Expect::Absent, 0)).await.unwrap();
    let rivals = (0..RIVALS).map(|_| {
        let store = store.clone();
        tokio::spawn(async move {
            for lost in 0..RIVALS {
                let live = store.get("configmaps", &key("a")).unwrap();
                let value = live.object["value"].as_u64().unwrap() + 1;
                match store
                    .write(put("a", Expect::Version(live.version), value))
                    .await
                {
                    Ok(_) => return lost,
                    Err(error) => assert_eq!(error, WriteError::Changed),
                }
            }
            panic!("lost {RIVALS} times against {} rivals", RIVALS - 1);
        })
    });
    for rival in rivals.collect::<Vec<_>>() {
        rival.await.unwrap();
    }
    let last = store.get("configmaps", &key("a")).unwrap();
    assert_eq!(last.object["value"], RIVALS as u64);
}

#[tokio::test]
async fn a_second_process_is_told_the_store_is_in_use() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let _first = open(&path);
    let error = Store::open_disk(&path).unwrap_err().to_string();
    assert!(
        error.ends_with("it is in use by another process"),
        "{error}"
    );
}

/// Not a test by itself: the process that the next test kills.
#[test]
#[ignore = "run by acknowledged_writes_survive_kill_9"]
fn child_that_writes_until_killed() {
    let path = std::env::var(CHILD_STORE).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(async {
        let store = open(std::path::Path::new(&path));
        for n in 0.. {
            let written = store
                .write(put(&format!("o{n}"), Expect::Absent, n))
                .await
                .unwrap();
            println!("ack o{n} {}", written.version);
        }
    });
}

#[test]
fn acknowledged_writes_survive_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "store::tests::child_that_writes_until_killed",
            "--ignored",
            "--nocapture",
        ])
        .env(CHILD_STORE, &path)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap())
        .lines()
        .map_while(Result::ok);
    let mut acknowledged = Vec::new();
    for line in lines {
        let Some((_, ack)) = line.split_once("ack ") else {
            continue;
        };
        let (name, version) = ack.split_once(' ').unwrap();
        acknowledged.push((name.to_owned(), version.parse::<u64>().unwrap()));
        if acknowledged.len() == 40 {
            child.kill().unwrap(); // SIGKILL; lines already in the pipe are still read and must hold too.
        }
    }
    child.wait().unwrap();
    assert!(acknowledged.len() >= 40);
    let store = open(&path);
    for (name, version) in &acknowledged {
        assert_eq!(
            store.get("configmaps", &key(name)).unwrap().version,
            *version,
            "{name}"
        );
    }
    assert!(store.read().version() >= acknowledged.len() as u64);
}

/// A disk in memory that can run full.
#[derive(Debug, Clone, Default)]
struct Platter {
    bytes: Arc<Mutex<Vec<u8>>>,
    full: Arc<AtomicBool>,
}

impl StorageBackend for Platter {
    fn len(&self) -> io::Result<u64> {
        Ok(self.bytes.lock().unwrap().len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let start = usize::try_from(offset).unwrap();
        out.copy_from_slice(&self.bytes.lock().unwrap()[start..start + out.len()]);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.bytes
            .lock()
            .unwrap()
            .resize(usize::try_from(len).unwrap(), 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.room()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.room()?;
        let start = usize::try_from(offset).unwrap();
        self.bytes.lock().unwrap()[start..start + data.len()].copy_from_slice(data);
        Ok(())
    }
}

impl Platter {
    fn room(&self) -> io::Result<()> {
        if self.full.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }
}

#[tokio::test]
async fn a_full_disk_fails_writes_only_and_heals() {
    let platter = Platter::default();
    let backend = platter.clone();
    let open = move || Database::builder().create_with_backend(backend.clone());
    let disk = Disk::open_with("demo.redb".to_owned(), Box::new(open)).unwrap();
    let store = Store::start(disk, 16).unwrap();
    store.write(put("a", Expect::Absent, 1)).await.unwrap();
    platter.full.store(true, Ordering::SeqCst);
    for _ in 0..2 {
        let error = store
            .write(put("a", Expect::Version(1), 2))
            .await
            .unwrap_err();
        assert!(matches!(error, WriteError::Full { .. }), "{error}");
        assert!(
            error.to_string().starts_with("the store demo.redb is full"),
            "{error}"
        );
    }
    assert_eq!(
        store.get("configmaps", &key("a")).unwrap().object["value"],
        1
    );
    platter.full.store(false, Ordering::SeqCst);
    let healed = store.write(put("a", Expect::Version(1), 3)).await.unwrap();
    assert_eq!((healed.version, &healed.object["value"]), (2, &json!(3)));
}

#[tokio::test]
async fn a_watch_sees_each_change_once_and_a_slow_one_is_cut() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("store"));
    let resource = "configmaps".into();
    let mut fast = store.follow(&resource, 0).unwrap();
    let mut slow = store.follow(&resource, 0).unwrap();
    for n in 1..=20 {
        store
            .write(put(&format!("o{n}"), Expect::Absent, n))
            .await
            .unwrap();
        fast.changed().await;
        let Position::Changes(changes) = fast.step() else {
            panic!("nothing new")
        };
        assert_eq!(changes.iter().map(|c| c.version).collect::<Vec<_>>(), [n]);
        assert!(matches!(fast.step(), Position::UpToDate(v) if v == n));
    }
    assert!(matches!(slow.step(), Position::Lost));
    assert!(store.follow(&resource, 3).is_none());
    assert!(
        store.follow(&resource, 4).is_some(),
        "the window is 16 changes"
    );
    assert!(
        store.follow(&resource, 21).is_none(),
        "the future is not known"
    );
    store.compact();
    assert!(matches!(fast.step(), Position::UpToDate(20)));
    assert!(store.follow(&resource, 19).is_none());
}

#[tokio::test]
async fn writes_of_many_share_transactions_and_stay_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("store"));
    let writes = (0..200).map(|n| {
        let store = store.clone();
        async move {
            store
                .write(put(&format!("o{n}"), Expect::Absent, n))
                .await
                .unwrap()
                .version
        }
    });
    let mut versions = futures_util::future::join_all(writes).await;
    versions.sort_unstable();
    assert_eq!(versions, (1..=200).collect::<Vec<u64>>());
}

/// The remembered past agrees with snapshots taken when it was the present.
fn rewinds(steps: &[(u8, bool)]) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let store = open(&dir.path().join("store"));
        let mut snapshots = vec![BTreeMap::new()];
        for (n, (name, remove)) in steps.iter().enumerate() {
            let name = format!("o{name}");
            let current = store.get("configmaps", &key(&name));
            let expect = current
                .as_ref()
                .map_or(Expect::Absent, |c| Expect::Version(c.version));
            let mut write = put(&name, expect, n as u64);
            if *remove && current.is_some() {
                write.object = None;
            }
            store.write(write).await.unwrap();
            snapshots.push(present(&store));
        }
        for (version, want) in snapshots.iter().enumerate() {
            let past = store.read().at("configmaps", version as u64);
            if version + 16 >= snapshots.len() - 1 {
                let past = past.unwrap();
                let past: BTreeMap<_, _> = past
                    .into_iter()
                    .map(|(key, stored)| (key, stored.object))
                    .collect();
                assert_eq!(&past, want, "at version {version}");
            } else {
                assert!(past.is_none(), "version {version} should be forgotten");
            }
        }
    });
}

fn present(store: &Store) -> BTreeMap<ObjectKey, Arc<Value>> {
    let world = store.read();
    let all = world.range("configmaps", None, None);
    all.map(|(key, stored)| (key.clone(), stored.object.clone()))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]
    #[test]
    fn the_past_can_be_read_back(steps in prop::collection::vec((0u8..5, any::<bool>()), 1..40)) {
        rewinds(&steps);
    }
}
