//! Housekeeping: removes the objects of a CRD that is being deleted, then lets the CRD go; forgets old Events.
//!
//! It holds the core only while it works, so that dropping the last server closes the store.

use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::future::join_all;
use malla_apimachinery::meta::ObjectKey;
use serde_json::Value;

use crate::auth::User;
use crate::client::DeleteParams;
use crate::core::Core;
use crate::error::ApiError;
use crate::kinds::CUSTOM_RESOURCE_DEFINITIONS;
use crate::registry::{CRDS, Served};
use crate::rest::intent::Intent;
use crate::rest::read::ListOptions;
use crate::rest::{Cx, Target, delete, events, read, update};
use crate::store::{Cursor, Expect, Position, Write};
use crate::strategy::crd::CLEANUP;

/// kube-apiserver's `--event-ttl`: one hour.
const EVENT_TTL_SECONDS: i64 = 3600;
/// How often old Events are looked for.
const EVENTS_EVERY: Duration = Duration::from_secs(60);
/// How long objects with finalizers of their own are waited for before looking again.
const AGAIN: Duration = Duration::from_millis(500);

/// Works until the server is gone.
pub(crate) async fn run(core: Weak<Core>) {
    let Some(mut news) = follow(&core) else {
        return;
    };
    loop {
        let Some(strong) = core.upgrade() else { return };
        let waiting = sweep(&strong).await;
        forget_events(&strong).await;
        drop(strong);
        if waiting {
            tokio::time::sleep(AGAIN).await;
            continue;
        }
        // Woken by a change of the CRDs, or to look at the Events again.
        let _ = tokio::time::timeout(EVENTS_EVERY, news.changed()).await;
        while let Position::Changes(_) = news.step() {}
    }
}

fn follow(core: &Weak<Core>) -> Option<Cursor> {
    let core = core.upgrade()?;
    let version = core.store.read().version();
    core.store.follow(&CRDS.into(), version)
}

/// Removes Events nothing was added to for [`EVENT_TTL_SECONDS`], without ceremony, as kube-apiserver's leases do.
async fn forget_events(core: &Core) {
    let horizon = core.now().as_second().saturating_sub(EVENT_TTL_SECONDS);
    let old: Vec<(ObjectKey, u64)> = {
        let world = core.store.read();
        let all = world.range(events::CORE, None, None);
        let old = all.filter(|(_, stored)| last_seen(&stored.object) < horizon);
        old.map(|(key, stored)| (key.clone(), stored.version))
            .collect()
    };
    let resource: Arc<str> = events::CORE.into();
    let removals = old.into_iter().map(|(key, version)| Write {
        resource: resource.clone(),
        key,
        expect: Expect::Version(version),
        object: None,
    });
    for result in join_all(removals.map(|write| core.store.write(write))).await {
        // One that changed meanwhile is not old; the disk's trouble is told by the store.
        let _ = result;
    }
}

fn last_seen(event: &Value) -> i64 {
    let times = [
        &event["lastTimestamp"],
        &event["series"]["lastObservedTime"],
        &event["eventTime"],
        &event["metadata"]["creationTimestamp"],
    ];
    let seconds = times.iter().filter_map(|time| {
        let time: jiff::Timestamp = time.as_str()?.parse().ok()?;
        Some(time.as_second())
    });
    seconds.max().unwrap_or(i64::MAX)
}

/// Cleans up after every CRD that is going; tells whether some must be looked at again.
async fn sweep(core: &Core) -> bool {
    let going: Vec<Arc<Value>> = {
        let world = core.store.read();
        let all = world.range(CRDS, None, None);
        let going =
            all.filter(|(_, stored)| stored.object["metadata"]["deletionTimestamp"].is_string());
        going.map(|(_, stored)| stored.object.clone()).collect()
    };
    let mut again = false;
    for crd in going {
        match clean(core, &crd).await {
            Ok(done) => again |= !done,
            Err(error) => {
                tracing::warn!(crd = crd["metadata"]["name"].as_str(), %error, "clean up");
                again = true;
            }
        }
    }
    again
}

/// Deletes a CRD's objects; when none is left, removes the finalizer. Tells whether that is done.
async fn clean(core: &Core, crd: &Value) -> Result<bool, ApiError> {
    let finalizers = crd["metadata"]["finalizers"].as_array();
    if !finalizers.is_some_and(|list| list.iter().any(|one| one == CLEANUP)) {
        return Ok(true);
    }
    let mut cx = Cx {
        user: User::component("apiextensions"),
        manager: "kube-apiserver".to_owned(),
        dry_run: false,
        validation: malla_apimachinery::kind::FieldValidation::Ignore,
        warnings: Vec::new(),
    };
    let group = crd["spec"]["group"].as_str().unwrap_or_default();
    let plural = crd["spec"]["names"]["plural"].as_str().unwrap_or_default();
    let family = core.registry().family(group, plural).cloned();
    if let Some(family) = family {
        let kind = family.storage.clone();
        let target = Target::new(Served { family, kind }, "", "");
        let all = ListOptions::default();
        let params = DeleteParams::default();
        delete::delete_collection(core, &target, &all, &params, &mut cx).await?;
        if !read::list(core, &target, &all)?.items.is_empty() {
            return Ok(false);
        }
    }
    release(core, crd, &mut cx).await?;
    Ok(true)
}

async fn release(core: &Core, crd: &Value, cx: &mut Cx) -> Result<(), ApiError> {
    let resource = &CUSTOM_RESOURCE_DEFINITIONS;
    let found = core
        .registry()
        .find(&resource.group, &resource.version, &resource.plural);
    let served = found.ok_or_else(ApiError::no_such_path)?;
    let name = crd["metadata"]["name"].as_str().unwrap_or_default();
    let mut next = crd.clone();
    if let Some(list) = next["metadata"]["finalizers"].as_array_mut() {
        list.retain(|one| one != CLEANUP);
    }
    let target = Target::new(served, "", name);
    match update::update(core, &target, None, &Intent::Replace(next), cx).await {
        Err(error) if !error.is_conflict() && !error.is_not_found() => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::last_seen;

    #[test]
    fn an_event_is_as_old_as_its_last_sighting() {
        let check = |event: Value, want: &str| {
            let want: jiff::Timestamp = want.parse().unwrap();
            assert_eq!(last_seen(&event), want.as_second(), "{event}");
        };
        let made = json!({"creationTimestamp": "2026-01-01T00:00:00Z"});
        check(json!({"metadata": made}), "2026-01-01T00:00:00Z");
        check(
            json!({"metadata": made, "lastTimestamp": "2026-01-01T01:00:00Z"}),
            "2026-01-01T01:00:00Z",
        );
        check(
            json!({"metadata": made, "lastTimestamp": null, "series": {"lastObservedTime": "2026-01-02T00:00:00.5Z"}}),
            "2026-01-02T00:00:00Z",
        );
        assert_eq!(last_seen(&json!({})), i64::MAX, "what has no time is kept");
    }
}
