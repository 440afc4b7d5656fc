//! nftables as far as the rules use it: runs scripts and refuses what nft would refuse.
//!
//! For tests: any sequence of changes must be accepted, and must end where one big change would.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddrV4;

use proptest::prelude::*;

use super::{Backends, Frontend, Services, TABLE, Transport, change};

#[derive(Debug, Default, PartialEq, Eq)]
struct Table {
    chains: BTreeMap<String, Vec<String>>,
    sets: BTreeSet<String>,
    frontends: BTreeMap<String, String>,
    hairpins: BTreeSet<String>,
}

impl Table {
    fn run(&mut self, script: &str) -> Result<(), String> {
        for line in script.lines() {
            self.step(line).map_err(|why| format!("{line}: {why}"))?;
        }
        Ok(())
    }

    fn step(&mut self, line: &str) -> Result<(), String> {
        let words: Vec<&str> = line.splitn(6, ' ').collect();
        let [verb, kind, "ip", TABLE, name, rest @ ..] = words.as_slice() else {
            return Err("not a command of this table".to_owned());
        };
        let rest = rest.first().copied().unwrap_or_default();
        match (*verb, *kind) {
            ("add", "set") => drop(self.sets.insert((*name).to_owned())),
            ("delete", "set") => {
                let used = self.rules().any(|rule| rule.contains(&format!("@{name} ")));
                must(
                    !used && self.sets.remove(*name),
                    "the set is used, or not there",
                )?;
            }
            ("add", "chain") => drop(self.chains.entry((*name).to_owned()).or_default()),
            ("flush", "chain") => self.chains.get_mut(*name).ok_or("no such chain")?.clear(),
            ("delete", "chain") => {
                let goto = format!("goto {name}");
                let ends = |rule: &str| {
                    rule.split(['{', '}', ','])
                        .any(|part| part.trim_end().ends_with(&goto))
                };
                let used =
                    self.rules().any(ends) || self.frontends.values().any(|chain| chain == name);
                let empty = self.chains.get(*name).is_some_and(Vec::is_empty);
                must(!used && empty, "the chain is used, not empty, or not there")?;
                self.chains.remove(*name);
            }
            ("add", "rule") => self.add_rule(name, rest)?,
            ("add" | "delete", "element") => self.element(verb, name, rest)?,
            _ => return Err("unknown command".to_owned()),
        }
        Ok(())
    }

    fn rules(&self) -> impl Iterator<Item = &str> {
        self.chains.values().flatten().map(String::as_str)
    }

    fn add_rule(&mut self, chain: &str, rule: &str) -> Result<(), String> {
        for (mark, known) in [
            ("@", &self.sets),
            ("goto ", &self.chains.keys().cloned().collect()),
        ] {
            for part in rule.split(mark).skip(1) {
                let name: String = part
                    .chars()
                    .take_while(|c| c.is_alphanumeric() || *c == '-')
                    .collect();
                must(known.contains(&name), &format!("{mark}{name} is not there"))?;
            }
        }
        self.chains
            .get_mut(chain)
            .ok_or("no such chain")?
            .push(rule.to_owned());
        Ok(())
    }

    fn element(&mut self, verb: &str, map: &str, text: &str) -> Result<(), String> {
        let text = text
            .trim_start_matches("{ ")
            .trim_end_matches(" }")
            .to_owned();
        match (verb, map) {
            ("add", "hairpins") => must(self.hairpins.insert(text), "it is there already"),
            ("delete", "hairpins") => must(self.hairpins.remove(&text), "it is not there"),
            ("add", _) => {
                let (key, chain) = text.split_once(" : goto ").ok_or("not a verdict")?;
                must(self.chains.contains_key(chain), "no such chain")?;
                let old = self.frontends.insert(key.to_owned(), chain.to_owned());
                must(old.is_none(), "it is there already")
            }
            _ => must(self.frontends.remove(&text).is_some(), "it is not there"),
        }
    }
}

fn must(holds: bool, why: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(why.to_owned()) }
}

fn services() -> impl Strategy<Value = Services> {
    let frontend = (1..5_u8, any::<bool>(), 80..82_u16).prop_map(|(host, tcp, port)| Frontend {
        address: [10, 96, 0, host].into(),
        transport: if tcp { Transport::Tcp } else { Transport::Udp },
        port,
    });
    let endpoint = (1..5_u8, 1..3_u16)
        .prop_map(|(host, port)| SocketAddrV4::new([10, 244, 0, host].into(), port));
    let affinity = prop_oneof![Just(None), Just(Some(10)), Just(Some(20))];
    let backends = (prop::collection::btree_set(endpoint, 0..4), affinity).prop_map(
        |(endpoints, affinity_seconds)| Backends {
            endpoints,
            affinity_seconds,
        },
    );
    prop::collection::btree_map(frontend, backends, 0..6)
}

proptest! {
    #[test]
    fn any_sequence_of_changes_is_accepted_and_ends_where_it_should(
        worlds in prop::collection::vec(services(), 1..6),
    ) {
        let mut table = Table::default();
        let mut now = Services::new();
        for next in worlds {
            let script = change(&now, &next);
            prop_assert_eq!(table.run(&script), Ok(()), "{}", script);
            now = next;
            let mut fresh = Table::default();
            fresh.run(&change(&Services::new(), &now)).unwrap();
            prop_assert_eq!(&table, &fresh);
        }
    }
}
