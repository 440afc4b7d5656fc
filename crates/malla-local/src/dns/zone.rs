//! Names of the cluster (Kubernetes DNS specification 1.1.0).
//!
//! Invariants: built whole from one picture of the cluster; names are compared in lower case;
//! a name that exists without records of the asked type answers with none, another one with
//! NXDOMAIN, both with the zone's SOA.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::Ipv4Addr;

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, CNAME, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{DNSClass, Name, RData, Record as DnsRecord, RecordType};

use crate::net::rules::Transport;

/// Seconds an answer may be kept: endpoints change often.
const TTL: u32 = 5;
const SPECIFICATION: &str = "1.1.0";

/// The part of the zone that one Service makes.
#[derive(Debug, Clone)]
pub(crate) struct Names {
    pub(crate) namespace: String,
    pub(crate) service: String,
    /// The cluster IP; none for headless Services.
    pub(crate) address: Option<Ipv4Addr>,
    pub(crate) external: Option<String>,
    /// Endpoints of a headless Service by their host names.
    pub(crate) hosts: BTreeMap<String, Host>,
    pub(crate) records: Vec<Record>,
}

/// An endpoint of a headless Service.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Host {
    pub(crate) address: Ipv4Addr,
    /// The pod has chosen its host name.
    pub(crate) named: bool,
}

/// A port that SRV records tell.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    pub(crate) port_name: String,
    pub(crate) transport: Transport,
    pub(crate) port: u16,
    /// The endpoint's host name; none for the Service itself.
    pub(crate) host: Option<String>,
}

#[derive(Debug, Clone, Default)]
struct Entry {
    addresses: BTreeSet<Ipv4Addr>,
    services: BTreeSet<(u16, String)>,
    alias: Option<String>,
    text: Option<String>,
}

/// What a query comes to.
#[derive(Debug)]
pub(crate) enum Answer {
    Reply(Message),
    /// Not a name of the cluster.
    Forward,
    /// Starts with an alias of a name that is not of the cluster: that name's records follow.
    Alias {
        reply: Message,
        target: Name,
    },
}

/// All names of the cluster.
#[derive(Debug, Default)]
pub(crate) struct Zone {
    domain: String,
    entries: HashMap<String, Entry>,
    pointers: HashMap<Ipv4Addr, BTreeSet<String>>,
    namespaces: BTreeSet<String>,
}

impl Zone {
    pub(crate) fn new(
        domain: &str,
        namespaces: BTreeSet<String>,
        services: impl Iterator<Item = Names>,
    ) -> Self {
        let mut zone = Self {
            domain: domain.to_owned(),
            namespaces,
            ..Self::default()
        };
        let version = format!("dns-version.{domain}");
        zone.entry(&version).text = Some(SPECIFICATION.to_owned());
        for namespace in zone.namespaces.clone() {
            for kind in ["svc", "pod"] {
                zone.entry(&format!("{namespace}.{kind}.{domain}"));
            }
        }
        for service in services {
            zone.add(service);
        }
        zone
    }

    /// The entry of a name; the names above it exist as well (RFC 8020).
    fn entry(&mut self, name: &str) -> &mut Entry {
        let mut above = name;
        while let Some((_, rest)) = above.split_once('.') {
            if rest.len() < self.domain.len() {
                break;
            }
            self.entries.entry(rest.to_owned()).or_default();
            above = rest;
        }
        self.entries.entry(name.to_owned()).or_default()
    }

    fn point(&mut self, address: Ipv4Addr, name: &str) {
        self.pointers
            .entry(address)
            .or_default()
            .insert(name.to_owned());
    }

    fn add(&mut self, names: Names) {
        let own = format!("{}.{}.svc.{}", names.service, names.namespace, self.domain);
        if let Some(external) = names.external {
            self.entry(&own).alias = Some(external);
            return;
        }
        if let Some(address) = names.address {
            self.entry(&own).addresses.insert(address);
            self.point(address, &own);
        }
        self.entry(&own);
        for (name, host) in &names.hosts {
            let full = format!("{name}.{own}");
            self.entry(&full).addresses.insert(host.address);
            self.entry(&own).addresses.insert(host.address);
            if host.named {
                self.point(host.address, &full);
            }
        }
        for record in names.records {
            let transport = match record.transport {
                Transport::Tcp => "tcp",
                Transport::Udp => "udp",
            };
            let target = match &record.host {
                Some(host) => format!("{host}.{own}"),
                None => own.clone(),
            };
            if !record.port_name.is_empty() {
                let name = format!("_{}._{transport}.{own}", record.port_name);
                self.entry(&name)
                    .services
                    .insert((record.port, target.clone()));
            }
            self.entry(&own).services.insert((record.port, target));
        }
    }

    /// Answers a query of one question.
    pub(crate) fn answer(&self, query: &Message) -> Answer {
        let refuse = |code| Answer::Reply(reply_to(query, code));
        if query.metadata.op_code != OpCode::Query {
            return refuse(ResponseCode::NotImp);
        }
        let [question] = query.queries.as_slice() else {
            return refuse(ResponseCode::FormErr);
        };
        if query.metadata.message_type != MessageType::Query {
            return refuse(ResponseCode::FormErr);
        }
        let name = plain(question.name());
        if let Some(address) = reverse_address(&name) {
            return self.pointer(query, question, address);
        }
        let ours = name == self.domain
            || name
                .strip_suffix(&self.domain)
                .is_some_and(|rest| rest.ends_with('.'));
        if !ours || question.query_class() != DNSClass::IN {
            return Answer::Forward;
        }
        self.name(query, question, &name)
    }

    fn name(&self, query: &Message, question: &Query, name: &str) -> Answer {
        let mut reply = reply_to(query, ResponseCode::NoError);
        reply.metadata.authoritative = true;
        let pod = self.pod_address(name);
        let by_pod = pod.map(|address| Entry {
            addresses: BTreeSet::from([address]),
            ..Entry::default()
        });
        let Some(entry) = by_pod.as_ref().or_else(|| self.entries.get(name)) else {
            reply.metadata.response_code = ResponseCode::NXDomain;
            self.add_soa(&mut reply);
            return Answer::Reply(reply);
        };
        let owner = question.name().clone();
        if let Some(alias) = &entry.alias {
            let Ok(target) = Name::from_utf8(format!("{}.", alias.trim_end_matches('.'))) else {
                return Answer::Reply(reply_to(query, ResponseCode::ServFail));
            };
            reply.add_answer(record(owner, RData::CNAME(CNAME(target.clone()))));
            if question.query_type() == RecordType::CNAME {
                return Answer::Reply(reply);
            }
            // A target in the cluster is answered at once, one step deep.
            if let Some(inner) = self.entries.get(&plain(&target)) {
                self.add_records(&mut reply, inner, &target, question.query_type());
                return Answer::Reply(reply);
            }
            return Answer::Alias { reply, target };
        }
        self.add_records(&mut reply, entry, &owner, question.query_type());
        if reply.answers.is_empty() {
            self.add_soa(&mut reply);
        }
        Answer::Reply(reply)
    }

    fn add_records(&self, reply: &mut Message, entry: &Entry, owner: &Name, kind: RecordType) {
        let any = kind == RecordType::ANY;
        if any || kind == RecordType::A {
            for address in &entry.addresses {
                reply.add_answer(record(owner.clone(), RData::A(A(*address))));
            }
        }
        if any || kind == RecordType::SRV {
            let weight = u16::try_from(100 / entry.services.len().max(1))
                .unwrap_or(1)
                .max(1);
            for (port, target) in &entry.services {
                let Ok(name) = Name::from_utf8(format!("{target}.")) else {
                    continue;
                };
                let data = RData::SRV(SRV::new(0, weight, *port, name.clone()));
                reply.add_answer(record(owner.clone(), data));
                for address in self
                    .entries
                    .get(target)
                    .iter()
                    .flat_map(|entry| &entry.addresses)
                {
                    reply.add_additional(record(name.clone(), RData::A(A(*address))));
                }
            }
        }
        if let Some(text) = entry
            .text
            .as_ref()
            .filter(|_| any || kind == RecordType::TXT)
        {
            let data = RData::TXT(TXT::new(vec![text.clone()]));
            reply.add_answer(record(owner.clone(), data));
        }
        let asks_soa = any || kind == RecordType::SOA;
        if asks_soa
            && plain(owner) == self.domain
            && let Some(soa) = self.soa()
        {
            reply.add_answer(soa);
        }
    }

    /// `a-b-c-d.NAMESPACE.pod.DOMAIN`, for every address, as CoreDNS' `pods insecure`.
    fn pod_address(&self, name: &str) -> Option<Ipv4Addr> {
        let rest = name.strip_suffix(&self.domain)?.strip_suffix(".pod.")?;
        let (address, namespace) = rest.split_once('.')?;
        if !self.namespaces.contains(namespace) {
            return None;
        }
        address.replace('-', ".").parse().ok()
    }

    fn pointer(&self, query: &Message, question: &Query, address: Ipv4Addr) -> Answer {
        let Some(names) = self.pointers.get(&address) else {
            return Answer::Forward;
        };
        let mut reply = reply_to(query, ResponseCode::NoError);
        reply.metadata.authoritative = true;
        if matches!(question.query_type(), RecordType::PTR | RecordType::ANY) {
            for name in names {
                if let Ok(target) = Name::from_utf8(format!("{name}.")) {
                    let data = RData::PTR(PTR(target));
                    reply.add_answer(record(question.name().clone(), data));
                }
            }
        }
        Answer::Reply(reply)
    }

    fn add_soa(&self, reply: &mut Message) {
        if let Some(soa) = self.soa() {
            reply.add_authority(soa);
        }
    }

    fn soa(&self) -> Option<DnsRecord> {
        let name = |text: String| Name::from_utf8(text).ok();
        let owner = name(format!("{}.", self.domain))?;
        let server = name(format!("ns.dns.{}.", self.domain))?;
        let contact = name(format!("hostmaster.{}.", self.domain))?;
        let soa = SOA::new(server, contact, 1, 7200, 1800, 86400, TTL);
        Some(record(owner, RData::SOA(soa)))
    }
}

/// An empty answer to a query.
pub(super) fn reply_to(query: &Message, code: ResponseCode) -> Message {
    let mut reply = Message::response(query.metadata.id, query.metadata.op_code);
    reply.metadata.recursion_desired = query.metadata.recursion_desired;
    reply.metadata.recursion_available = true;
    reply.metadata.response_code = code;
    reply.add_queries(query.queries.iter().cloned());
    reply
}

fn record(owner: Name, data: RData) -> DnsRecord {
    DnsRecord::from_rdata(owner, TTL, data)
}

/// Lower case, without the root's dot.
fn plain(name: &Name) -> String {
    name.to_lowercase()
        .to_utf8()
        .trim_end_matches('.')
        .to_owned()
}

/// The address of `d.c.b.a.in-addr.arpa`.
fn reverse_address(name: &str) -> Option<Ipv4Addr> {
    let digits = name.strip_suffix(".in-addr.arpa")?;
    let forward: Vec<&str> = digits.rsplit('.').collect();
    forward.join(".").parse().ok()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use hickory_proto::op::{Message, Query};
    use hickory_proto::rr::{Name, RecordType};

    use super::{Answer, Host, Names, Record, Zone};
    use crate::net::rules::Transport;

    fn zone() -> Zone {
        let names = |service: &str| Names {
            namespace: "base".to_owned(),
            service: service.to_owned(),
            address: None,
            external: None,
            hosts: BTreeMap::new(),
            records: Vec::new(),
        };
        let http = |host: Option<&str>| Record {
            port_name: "http".to_owned(),
            transport: Transport::Tcp,
            port: 80,
            host: host.map(str::to_owned),
        };
        let mut web = names("web");
        web.address = Some("10.96.0.7".parse().unwrap());
        web.records.push(http(None));
        let mut db = names("db");
        for (name, address, named) in [
            ("db-0", "10.244.0.3", true),
            ("10-244-0-4", "10.244.0.4", false),
        ] {
            let address = address.parse().unwrap();
            db.hosts.insert(name.to_owned(), Host { address, named });
            db.records.push(http(Some(name)));
        }
        let mut outer = names("outer");
        outer.external = Some("example.com".to_owned());
        let mut inner = names("inner");
        inner.external = Some("web.base.svc.cluster.local.".to_owned());
        let namespaces = ["base".to_owned(), "void".to_owned()].into();
        Zone::new(
            "cluster.local",
            namespaces,
            [web, db, outer, inner].into_iter(),
        )
    }

    /// `CODE: answers | authorities`, or `forward`, or `alias: …`.
    fn ask(name: &str, kind: RecordType) -> String {
        let mut query = Message::query();
        query.add_query(Query::query(Name::from_utf8(name).unwrap(), kind));
        let show = |reply: &Message| {
            let data: Vec<String> = reply
                .answers
                .iter()
                .map(|one| one.data.to_string())
                .collect();
            let soa = if reply.authorities.is_empty() {
                ""
            } else {
                " | soa"
            };
            format!("{}: {}{soa}", reply.metadata.response_code, data.join(", "))
        };
        match zone().answer(&query) {
            Answer::Reply(reply) => show(&reply),
            Answer::Forward => "forward".to_owned(),
            Answer::Alias { reply, target } => format!("alias {target} {}", show(&reply)),
        }
    }

    #[test]
    fn names_answer_as_the_specification_says() {
        use RecordType as T;
        for (name, kind, wanted) in [
            ("web.base.svc.cluster.local.", T::A, "No Error: 10.96.0.7"),
            ("WEB.base.SVC.cluster.local.", T::A, "No Error: 10.96.0.7"),
            ("web.base.svc.cluster.local.", T::AAAA, "No Error:  | soa"),
            ("base.svc.cluster.local.", T::A, "No Error:  | soa"),
            ("void.svc.cluster.local.", T::A, "No Error:  | soa"),
            (
                "none.base.svc.cluster.local.",
                T::A,
                "Non-Existent Domain:  | soa",
            ),
            (
                "web.none.svc.cluster.local.",
                T::A,
                "Non-Existent Domain:  | soa",
            ),
            (
                "_http._tcp.web.base.svc.cluster.local.",
                T::SRV,
                "No Error: 0 100 80 web.base.svc.cluster.local.",
            ),
            (
                "db.base.svc.cluster.local.",
                T::A,
                "No Error: 10.244.0.3, 10.244.0.4",
            ),
            (
                "db-0.db.base.svc.cluster.local.",
                T::A,
                "No Error: 10.244.0.3",
            ),
            (
                "10-244-0-9.base.pod.cluster.local.",
                T::A,
                "No Error: 10.244.0.9",
            ),
            (
                "10-244-0-9.none.pod.cluster.local.",
                T::A,
                "Non-Existent Domain:  | soa",
            ),
            (
                "7.0.96.10.in-addr.arpa.",
                T::PTR,
                "No Error: web.base.svc.cluster.local.",
            ),
            (
                "3.0.244.10.in-addr.arpa.",
                T::PTR,
                "No Error: db-0.db.base.svc.cluster.local.",
            ),
            ("4.0.244.10.in-addr.arpa.", T::PTR, "forward"),
            ("dns-version.cluster.local.", T::TXT, "No Error: 1.1.0"),
            ("example.com.", T::A, "forward"),
            ("notcluster.local.", T::A, "forward"),
            (
                "outer.base.svc.cluster.local.",
                T::A,
                "alias example.com. No Error: example.com.",
            ),
            (
                "inner.base.svc.cluster.local.",
                T::A,
                "No Error: web.base.svc.cluster.local., 10.96.0.7",
            ),
        ] {
            assert_eq!(ask(name, kind), wanted, "{name} {kind}");
        }
    }
}
