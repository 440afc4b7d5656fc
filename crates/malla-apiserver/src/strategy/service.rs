//! Services: cluster IPs and node ports.
//!
//! Invariant: what is taken is what stored Services name plus what is reserved for writes under way; there is no other
//! record that could disagree. A reservation ends when its write is visible, or failed.

use std::collections::{BTreeMap, HashSet};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ipnet::Ipv4Net;
use malla_apimachinery::error::FieldError;
use malla_apimachinery::meta::ObjectKey;
use rand::RngExt;
use serde_json::{Value, json};

use crate::core::Core;
use crate::error::ApiError;
use crate::rest::create::text;

/// Addresses and ports of writes under way.
#[derive(Debug, Default)]
pub(crate) struct Reservations(Mutex<Pending>);

#[derive(Debug, Default)]
struct Pending {
    next: u64,
    writes: BTreeMap<u64, Reservation>,
}

/// What one write was given, and the Service it is for.
#[derive(Debug)]
struct Reservation {
    owner: ObjectKey,
    taken: Taken,
}

#[derive(Debug, Default, Clone)]
struct Taken {
    addresses: HashSet<Ipv4Addr>,
    ports: HashSet<u16>,
}

/// Holds what one write was given; release by drop.
#[derive(Debug)]
pub(crate) struct Held {
    all: Arc<Reservations>,
    number: u64,
}

impl Reservations {
    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pending {
    /// What is reserved for Services other than `owner`. Writes of one Service do not stand in each other's way: at
    /// most one of them is stored.
    fn of_others(&self, owner: &ObjectKey) -> impl Iterator<Item = &Taken> {
        let others = self.writes.values();
        let others = others.filter(move |reservation| reservation.owner != *owner);
        others.map(|reservation| &reservation.taken)
    }

    fn add(&mut self, reservation: Reservation) -> u64 {
        let number = self.next;
        self.next += 1;
        self.writes.insert(number, reservation);
        number
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.all.lock().writes.remove(&self.number);
    }
}

/// Carries allocated values over where the client left them out, and drops what the new type cannot have.
pub(super) fn begin_update(old: &Value, new: &mut Value) {
    let had = |kind: &str| matches!(kind, "ClusterIP" | "NodePort" | "LoadBalancer" | "");
    let has_address = had(text(new, "/spec/type"));
    if has_address && had(text(old, "/spec/type")) {
        for field in ["clusterIP", "clusterIPs"] {
            if text(new, "/spec/clusterIP").is_empty() || new["spec"][field].is_null() {
                new["spec"][field] = old["spec"][field].clone();
            }
        }
    }
    if !has_address {
        remove(
            &mut new["spec"],
            &["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"],
        );
    }
    if wants_ports(&new["spec"]) {
        keep_ports(old, new);
    } else if wants_ports(&old["spec"]) {
        for port in new["spec"]["ports"].as_array_mut().into_iter().flatten() {
            remove(port, &["nodePort"]);
        }
    }
    if !wants_health_port(&new["spec"]) {
        remove(&mut new["spec"], &["healthCheckNodePort"]);
    } else if new["spec"]["healthCheckNodePort"].is_null() {
        let old = old["spec"]["healthCheckNodePort"].clone();
        if !old.is_null() {
            new["spec"]["healthCheckNodePort"] = old;
        }
    }
}

/// Fills in `clusterIP`, `clusterIPs`, IP families and node ports.
pub(super) fn allocate(
    core: &Core,
    old: Option<&Value>,
    object: &mut Value,
) -> Result<Held, ApiError> {
    let owner = ObjectKey {
        namespace: text(object, "/metadata/namespace").to_owned(),
        name: text(object, "/metadata/name").to_owned(),
    };
    let mut pending = core.reservations.lock();
    // Read under the lock: a write that ends meanwhile is still reserved.
    let mut taken = match takes_nothing(&object["spec"]) {
        true => Taken::default(),
        false => stored(core, &owner),
    };
    for other in pending.of_others(&owner) {
        taken.addresses.extend(&other.addresses);
        taken.ports.extend(&other.ports);
    }
    let mut mine = Taken::default();
    let mut allocator = Allocator {
        core,
        taken: &mut taken,
        mine: &mut mine,
    };
    allocator
        .fill(old, object)
        .map_err(|error| ApiError::invalid("", "Service", &owner.name, &[error]))?;
    let number = pending.add(Reservation { owner, taken: mine });
    Ok(Held {
        all: core.reservations.clone(),
        number,
    })
}

struct Allocator<'a> {
    core: &'a Core,
    taken: &'a mut Taken,
    mine: &'a mut Taken,
}

impl Allocator<'_> {
    fn fill(&mut self, old: Option<&Value>, object: &mut Value) -> Result<(), FieldError> {
        let spec = &mut object["spec"];
        if spec["type"] == "ExternalName" {
            return Ok(());
        }
        self.fill_address(spec)?;
        if wants_ports(spec) {
            self.fill_ports(old, spec)?;
        }
        if wants_health_port(spec) {
            let path = "spec.healthCheckNodePort";
            let port = self.port(&spec["healthCheckNodePort"], path)?;
            spec["healthCheckNodePort"] = port.into();
        }
        Ok(())
    }

    fn fill_address(&mut self, spec: &mut Value) -> Result<(), FieldError> {
        let requested = match spec["clusterIP"].as_str() {
            Some("") | None => spec["clusterIPs"][0].as_str().unwrap_or(""),
            Some(address) => address,
        };
        let address = match requested {
            "None" => "None".to_owned(),
            "" => self.any_address()?.to_string(),
            requested => self.this_address(requested)?.to_string(),
        };
        spec["clusterIPs"] = json!([address]);
        spec["clusterIP"] = address.into();
        for (field, value) in [
            ("ipFamilies", json!(["IPv4"])),
            ("ipFamilyPolicy", json!("SingleStack")),
        ] {
            if spec[field].is_null() {
                spec[field] = value;
            }
        }
        Ok(())
    }

    fn this_address(&mut self, requested: &str) -> Result<Ipv4Addr, FieldError> {
        let range = self.core.config.service_cidr;
        let refuse = |why: String| {
            let detail = format!("failed to allocate IP {requested}: {why}");
            FieldError::invalid("spec.clusterIPs", json!([requested]), detail)
        };
        let address: Ipv4Addr = requested
            .parse()
            .map_err(|_| refuse("it is not an IPv4 address".to_owned()))?;
        let usable =
            range.contains(&address) && address != range.network() && address != range.broadcast();
        if !usable {
            return Err(refuse(format!(
                "the provided IP ({address}) is not in the valid range. The range of valid IPs is {range}"
            )));
        }
        if !self.take_address(address) {
            return Err(refuse("provided IP is already allocated".to_owned()));
        }
        Ok(address)
    }

    fn any_address(&mut self) -> Result<Ipv4Addr, FieldError> {
        let candidates = candidates(self.core.config.service_cidr);
        for address in candidates {
            if self.take_address(address) {
                return Ok(address);
            }
        }
        let detail = "failed to allocate a serviceIP: range is full";
        Err(FieldError::invalid("spec.clusterIPs", Value::Null, detail))
    }

    fn take_address(&mut self, address: Ipv4Addr) -> bool {
        self.taken.addresses.insert(address) && self.mine.addresses.insert(address)
    }

    fn fill_ports(&mut self, old: Option<&Value>, spec: &mut Value) -> Result<(), FieldError> {
        if spec["type"] == "LoadBalancer"
            && spec["allocateLoadBalancerNodePorts"] == false
            && old.is_none()
        {
            return Ok(());
        }
        let count = spec["ports"].as_array().map_or(0, Vec::len);
        // One number serves TCP and UDP of the same port.
        let mut mine: Vec<(Value, String, u16)> = Vec::new();
        for index in 0..count {
            let entry = &spec["ports"][index];
            let protocol = text(entry, "/protocol").to_owned();
            let shared = mine.iter().find(|(port, other, number)| {
                let wanted = entry["nodePort"].as_u64().filter(|wanted| *wanted != 0);
                *other != protocol
                    && match wanted {
                        Some(wanted) => wanted == u64::from(*number),
                        None => *port == entry["port"],
                    }
            });
            let number = match shared {
                Some((_, _, number)) => *number,
                None => self.port(&entry["nodePort"], &format!("spec.ports[{index}].nodePort"))?,
            };
            mine.push((entry["port"].clone(), protocol, number));
            spec["ports"][index]["nodePort"] = number.into();
        }
        Ok(())
    }

    /// The requested port, or a free one for none (null or 0).
    fn port(&mut self, requested: &Value, path: &str) -> Result<u16, FieldError> {
        let range = self.core.config.node_ports.clone();
        let valid = || {
            format!(
                "provided port is not in the valid range. The range of valid ports is {}-{}",
                range.start(),
                range.end()
            )
        };
        match requested.as_u64() {
            None | Some(0) => {
                let ports = rotated(u32::from(*range.start()), u32::from(*range.end()));
                let mut ports = ports.filter_map(|port| u16::try_from(port).ok());
                let free = ports.find(|port| self.taken.ports.insert(*port));
                let free = free.ok_or_else(|| {
                    FieldError::invalid(path, 0, "failed to allocate a nodePort: range is full")
                })?;
                self.mine.ports.insert(free);
                Ok(free)
            }
            Some(wanted) => {
                let port = u16::try_from(wanted)
                    .ok()
                    .filter(|port| range.contains(port));
                let port = port.ok_or_else(|| FieldError::invalid(path, wanted, valid()))?;
                if !self.taken.ports.insert(port) {
                    let detail = "provided port is already allocated";
                    return Err(FieldError::invalid(path, wanted, detail));
                }
                self.mine.ports.insert(port);
                Ok(port)
            }
        }
    }
}

/// Whether a Service has neither an address nor ports of its own: there may be many such.
fn takes_nothing(spec: &Value) -> bool {
    let nameless = spec["type"] == "ExternalName" || spec["clusterIP"] == "None";
    nameless && !wants_ports(spec) && !wants_health_port(spec)
}

/// What stored Services other than `owner` have.
fn stored(core: &Core, owner: &ObjectKey) -> Taken {
    let mut taken = Taken::default();
    let world = core.store.read();
    for (key, stored) in world.range("services", None, None) {
        if key == owner {
            continue;
        }
        let spec = &stored.object["spec"];
        let address: Option<Ipv4Addr> = spec["clusterIP"]
            .as_str()
            .and_then(|text| text.parse().ok());
        taken.addresses.extend(address);
        let ports = spec["ports"].as_array().into_iter().flatten();
        let ports = ports.map(|port| &port["nodePort"]);
        let all = ports.chain([&spec["healthCheckNodePort"]]);
        let numbers = all.filter_map(|port| u16::try_from(port.as_u64()?).ok());
        taken.ports.extend(numbers.filter(|port| *port != 0));
    }
    taken
}

/// The addresses of a range, from a random start: the upper band first, so that the lower stays free for requests by
/// name (kube-apiserver's `ServiceIPStaticSubrange`).
fn candidates(range: Ipv4Net) -> impl Iterator<Item = Ipv4Addr> {
    let first = u32::from(range.network());
    let last = u32::from(range.broadcast());
    let size = last - first;
    let band = (size / 16).clamp(16, 256).min(size / 2);
    let upper = rotated(first + band, last.saturating_sub(1));
    upper.chain(first + 1..first + band).map(Ipv4Addr::from)
}

/// `low..=high`, starting somewhere inside.
fn rotated(low: u32, high: u32) -> impl Iterator<Item = u32> {
    let start = if high > low {
        rand::rng().random_range(low..=high)
    } else {
        low
    };
    (start..=high).chain(low..start)
}

fn wants_ports(spec: &Value) -> bool {
    matches!(spec["type"].as_str(), Some("NodePort" | "LoadBalancer"))
}

fn wants_health_port(spec: &Value) -> bool {
    spec["type"] == "LoadBalancer" && spec["externalTrafficPolicy"] == "Local"
}

/// A port entry without a node port keeps the one it had (matched by port number and protocol).
fn keep_ports(old: &Value, new: &mut Value) {
    let old: Vec<Value> = old["spec"]["ports"].as_array().cloned().unwrap_or_default();
    for port in new["spec"]["ports"].as_array_mut().into_iter().flatten() {
        if port["nodePort"].as_u64().unwrap_or(0) != 0 {
            continue;
        }
        let same = old
            .iter()
            .find(|old| old["port"] == port["port"] && old["protocol"] == port["protocol"]);
        if let Some(number) = same.and_then(|old| old.get("nodePort")) {
            port["nodePort"] = number.clone();
        }
    }
}

fn remove(object: &mut Value, fields: &[&str]) {
    if let Some(object) = object.as_object_mut() {
        for field in fields {
            object.shift_remove(*field);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::Arc;

    use serde_json::json;

    use malla_apimachinery::meta::ObjectKey;

    use super::{Held, Reservation, Reservations, Taken, begin_update, candidates};

    #[test]
    fn writes_of_one_service_share_what_is_reserved_until_the_last_has_ended() {
        let all = Arc::new(Reservations::default());
        let key = |name: &str| ObjectKey {
            namespace: "default".to_owned(),
            name: name.to_owned(),
        };
        let reserve = |name| {
            let taken = Taken {
                ports: HashSet::from([30_000]),
                ..Taken::default()
            };
            let owner = key(name);
            let number = all.lock().add(Reservation { owner, taken });
            let all = all.clone();
            Held { all, number }
        };
        let blocked = |name| all.lock().of_others(&key(name)).count() > 0;
        let first = reserve("a");
        let second = reserve("a");
        assert!(!blocked("a") && blocked("b"));
        drop(first);
        assert!(blocked("b"), "the second write may still be stored");
        drop(second);
        assert!(!blocked("b"));
    }

    #[test]
    fn a_range_offers_each_address_once_and_neither_end() {
        for range in ["10.96.0.0/16", "10.0.0.0/28", "10.0.0.0/30"] {
            let range: ipnet::Ipv4Net = range.parse().unwrap();
            let all: Vec<_> = candidates(range).collect();
            let distinct: HashSet<_> = all.iter().collect();
            assert_eq!(all.len(), distinct.len());
            assert_eq!(all.len(), range.hosts().count(), "{range}");
            assert!(range.hosts().all(|host| distinct.contains(&host)));
        }
    }

    #[test]
    fn an_update_keeps_what_was_allocated() {
        let old = json!({"spec": {"type": "NodePort", "clusterIP": "10.96.0.5", "clusterIPs": ["10.96.0.5"],
            "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30080}]}});
        let mut new =
            json!({"spec": {"type": "NodePort", "ports": [{"port": 80, "protocol": "TCP"}]}});
        begin_update(&old, &mut new);
        assert_eq!(new["spec"]["clusterIP"], "10.96.0.5");
        assert_eq!(new["spec"]["ports"][0]["nodePort"], 30080);
        new["spec"]["type"] = "ClusterIP".into();
        begin_update(&old, &mut new);
        assert!(new["spec"]["ports"][0]["nodePort"].is_null());
        new["spec"]["type"] = "ExternalName".into();
        begin_update(&old, &mut new);
        assert!(new["spec"]["clusterIP"].is_null());
    }
}
