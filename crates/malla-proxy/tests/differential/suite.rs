//! Runs every file of `tests/differential/cases` through both proxies and prints what came of it.
//!
//! `MALLA_DIFFERENTIAL` narrows it down to the cases whose `area/file: name` contains it. A file is one pair of
//! processes; files run side by side, the cases of a file one after another, and each case on both proxies at once.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::case::{By, Case, Family, Part};
use crate::compose::{self, Base};
use crate::counters::{Around, changes, rest, stats, wait};
use crate::lab::{Lab, Refusals, Side};
use crate::outcome::{Finished, Outcome, alone_again, report};
use crate::ports::free_port;
use crate::socket::Socket;
use crate::transcript::{Transcript, difference, rows};
use crate::upstream::Upstream;
use crate::{certificates, client1, client2};

/// Files under way at once: most of a case's time is waiting.
const WORKERS: usize = 4;
/// How long no line may come until none is expected any more.
const QUIET: Duration = Duration::from_millis(150);
/// How long log lines and counters may take to appear.
const LATE: Duration = Duration::from_millis(1500);
/// How long a proxy may take until it is as a family wants it.
const READY: Duration = Duration::from_secs(20);

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/differential")
}

#[test]
fn both_proxies_do_the_same() {
    let wanted = std::env::var("MALLA_DIFFERENTIAL").unwrap_or_default();
    let mut files = Vec::new();
    find(&folder().join("cases"), &mut files);
    files.sort();
    let document = std::fs::read_to_string(folder().join("../../docs/differences.md")).unwrap();
    let rows = rows(&document);
    let queue = Mutex::new(files.iter());
    let done = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                loop {
                    let Some(file) = queue.lock().unwrap().next() else {
                        return;
                    };
                    let finished = run_file(file, &wanted, &rows);
                    done.lock().unwrap().push((file, finished));
                }
            });
        }
    });
    let mut done: Vec<Finished> = done
        .into_inner()
        .unwrap()
        .into_iter()
        .flat_map(|(file, finished)| alone_again(finished, || run_file(file, &wanted, &rows)))
        .collect();
    done.sort_by(|a, b| a.name.cmp(&b.name));
    report(&done);
}

fn find(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            find(&path, into);
        } else if path.extension().is_some_and(|ending| ending == "yaml") {
            into.push(path);
        }
    }
}

fn run_file(file: &Path, wanted: &str, rows: &BTreeSet<String>) -> Vec<Finished> {
    let cases = folder().join("cases");
    let short = file.strip_prefix(&cases).unwrap_or(file).with_extension("");
    let short = short.display().to_string();
    let whole = |how: String| {
        vec![Finished {
            name: short.clone(),
            outcome: Outcome::Differs(how),
        }]
    };
    let mut family: Family = match compose::read(file) {
        Ok(family) => family,
        Err(error) => return whole(error),
    };
    for case in family
        .cases
        .iter_mut()
        .filter(|case| case.compare.is_empty())
    {
        case.compare.clone_from(&family.compare);
    }
    let name = |case: &Case| format!("{short}: {}", case.name);
    let chosen: Vec<&Case> = family
        .cases
        .iter()
        .filter(|case| name(case).contains(wanted))
        .collect();
    if chosen.is_empty() && (family.refused.is_none() || !short.contains(wanted)) {
        return vec![];
    }
    let started = Bench::start(&family);
    if let Some(refused) = &family.refused {
        let outcome = refusal(refused.by, &refused.says, started.err());
        let known = refused.row.as_ref().is_none_or(|row| rows.contains(row));
        let outcome = match (refused.by, outcome) {
            (_, Err(how)) => Outcome::Differs(how),
            (_, Ok(())) if !known => Outcome::Differs("docs/differences.md has no such row".into()),
            (By::Both, Ok(())) => Outcome::Same,
            (By::Malla, Ok(())) => Outcome::OnPurpose,
        };
        return vec![Finished {
            name: short,
            outcome,
        }];
    }
    let mut bench = match started {
        Ok(bench) => bench,
        Err(refusals) => return whole(format!("does not start: {refusals:#?}")),
    };
    if let Err(error) = bench.await_ready(&family.ready) {
        return whole(error);
    }
    let finished = chosen.iter().map(|case| {
        let row_is_there = case
            .differs
            .as_ref()
            .is_none_or(|differs| rows.contains(&differs.row));
        let outcome = if row_is_there {
            bench.run(case)
        } else {
            Outcome::Differs("docs/differences.md has no such row".into())
        };
        Finished {
            name: name(case),
            outcome,
        }
    });
    finished.collect()
}

fn refusal(by: By, says: &str, refusals: Option<Refusals>) -> Result<(), String> {
    let Some(refusals) = refusals else {
        return Err("both start on it".into());
    };
    let fits = match by {
        By::Both => refusals.envoy.is_some(),
        By::Malla => refusals.envoy.is_none(),
    };
    let malla = refusals.malla.as_deref();
    if fits && malla.is_some_and(|text| text.contains(says)) {
        return Ok(());
    }
    Err(format!(
        "expected {by:?} to refuse it, and {says:?} from Malla: {refusals:#?}"
    ))
}

/// Both proxies on a family's configuration, each with upstreams of its own.
struct Bench {
    lab: Lab,
    upstreams: [Vec<Upstream>; 2],
    /// Log lines that were compared already.
    logged: [usize; 2],
}

impl Bench {
    fn start(family: &Family) -> Result<Self, Refusals> {
        let wrong = |error: String| Refusals {
            envoy: Some(error.clone()),
            malla: Some(error),
        };
        let base = folder().join(format!("bases/{}.yaml", family.base));
        let base: Base = compose::read(&base).map_err(wrong)?;
        let text = compose::bootstrap(family, &base).to_string();
        let folder = tempfile::tempdir().unwrap();
        if text.contains("$folder") {
            certificates::write_certificates(folder.path());
            // How short a resource is, for the overload manager.
            for (name, part) in [("low", "0.2"), ("full", "1.0")] {
                std::fs::write(folder.path().join(name), part).unwrap();
            }
        }
        let mut upstreams = [Vec::new(), Vec::new()];
        let mut sides = Vec::new();
        for (name, upstreams) in ["envoy", "malla"].into_iter().zip(&mut upstreams) {
            let mut places = BTreeMap::from([("dead".to_owned(), free_port())]);
            for up in compose::named(&text, "up") {
                if up != "dead" {
                    let upstream = Upstream::start(&up);
                    places.insert(up, upstream.port);
                    upstreams.push(upstream);
                }
            }
            let ports: BTreeMap<String, u16> = compose::named(&text, "port")
                .into_iter()
                .map(|port| (port, free_port()))
                .collect();
            let log = folder.path().join(format!("{name}.log"));
            let own = compose::fill(&compose::fill(&text, "up", &places), "port", &ports);
            let own = own
                .replace("$log", &log.display().to_string())
                .replace("$folder", &folder.path().display().to_string());
            let socket = |socket: String| {
                let path = folder.path().join(format!("{name}-{socket}"));
                (socket, path)
            };
            let sockets: HashMap<String, PathBuf> = compose::named(&text, "unix")
                .into_iter()
                .map(socket)
                .collect();
            let own = sockets.iter().fold(own, |own, (name, path)| {
                own.replace(&format!("$unix:{name}"), &path.display().to_string())
            });
            let ports: HashMap<String, u16> = ports.into_iter().collect();
            let side = Side {
                name,
                ports,
                sockets,
                log,
            };
            sides.push((own, side));
        }
        let malla = sides.pop().expect("two were made");
        let envoy = sides.pop().expect("two were made");
        Ok(Self {
            lab: Lab::launch(envoy, malla, folder, 1)?,
            upstreams,
            logged: [0, 0],
        })
    }

    /// Waits until both proxies have come as far as a family wants them.
    fn await_ready(&self, names: &[String]) -> Result<(), String> {
        for side in [&self.lab.envoy, &self.lab.malla] {
            for name in names {
                let own = || stats(side, std::slice::from_ref(name));
                if !wait(READY, rest, || own().values().any(|value| *value > 0)) {
                    return Err(format!("{}: {name} stays zero", side.name));
                }
            }
        }
        Ok(())
    }

    /// One case on both.
    fn run(&mut self, case: &Case) -> Outcome {
        let sides = [&self.lab.envoy, &self.lab.malla];
        if !sides[0].has(&case.on) {
            return Outcome::Differs(format!("there is no listener {}", case.on));
        }
        let before = sides.map(|side| stats(side, &case.stats));
        let folder = self.lab.folder.path();
        let upstreams = &self.upstreams;
        let mut made = std::thread::scope(|scope| {
            [0, 1]
                .map(|at| scope.spawn(move || exchange(sides[at], case, &upstreams[at], folder)))
                .map(|thread| thread.join().expect("a client does not panic"))
        });
        for at in [0, 1] {
            made[at].log = self.log(at, case, &made[at]);
        }
        let places = [0, 1].map(|at| self.places(at));
        let deadline = Instant::now() + LATE;
        let lines = loop {
            let sides = [&self.lab.envoy, &self.lab.malla];
            for at in [0, 1] {
                made[at].stats = changes(&before[at], &stats(sides[at], &case.stats));
            }
            let lines = [0, 1].map(|at| made[at].lines(case, &places[at]));
            if lines[0] == lines[1] || case.stats.is_empty() || Instant::now() > deadline {
                break lines;
            }
            std::thread::sleep(Duration::from_millis(50));
        };
        judge(case, &lines)
    }

    fn log(&mut self, at: usize, case: &Case, made: &Transcript) -> Vec<String> {
        let side = [&self.lab.envoy, &self.lab.malla][at];
        let answers = made.answers.iter().filter(|answer| answer.is_final());
        let count = case.lines.unwrap_or(answers.count());
        let compared = case.compare.contains(&Part::Log);
        let deadline = Instant::now() + if compared { LATE } else { LATE / 2 };
        // Lines that are not compared come sometime; the next case is not to see them.
        let settle = if compared { Duration::ZERO } else { QUIET };
        let (mut seen, mut since) = (0, Instant::now());
        loop {
            let text = std::fs::read_to_string(&side.log).unwrap_or_default();
            let lines: Vec<String> = text
                .lines()
                .skip(self.logged[at])
                .map(str::to_owned)
                .collect();
            if lines.len() != seen {
                (seen, since) = (lines.len(), Instant::now());
            }
            let complete = lines.len() >= count && since.elapsed() >= settle;
            if complete || Instant::now() > deadline {
                self.logged[at] += lines.len();
                return lines;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Addresses and what they are called.
    fn places(&self, at: usize) -> Vec<(String, String)> {
        let side = [&self.lab.envoy, &self.lab.malla][at];
        let upstreams = self.upstreams[at].iter();
        let upstreams = upstreams.map(|up| (up.port, up.name.clone()));
        let own = side.ports.iter().map(|(name, port)| (*port, name.clone()));
        let sockets = side.sockets.iter();
        let sockets = sockets.map(|(name, path)| (path.display().to_string(), format!("<{name}>")));
        upstreams
            .chain(own)
            .map(|(port, name)| (format!("127.0.0.1:{port}"), format!("<{name}>")))
            .chain(sockets)
            .collect()
    }
}

fn exchange(side: &Side, case: &Case, upstreams: &[Upstream], folder: &Path) -> Transcript {
    for upstream in upstreams {
        let own = case.upstreams.get(&upstream.name);
        let default: &[_] = if upstream.name == "backend" {
            &case.upstream
        } else {
            &[]
        };
        upstream.begin(own.map_or(default, Vec::as_slice));
    }
    let around = Around {
        side,
        upstreams,
        patience: case.patience,
    };
    let socket = match side.socket(&case.on) {
        Some(path) => Socket::connect_unix(path),
        None => Socket::connect(side.address(&case.on), case.tls.as_ref(), folder),
    };
    let (answers, end) = match socket {
        Err(error) => (vec![], format!("refused: {error}")),
        Ok(socket) if case.h2.is_empty() => client1::Client::new(socket, &around).run(&case.send),
        Ok(socket) => client2::run(socket, &case.h2, &around),
    };
    let seen = upstreams.iter().map(|up| (up.name.clone(), up.seen()));
    Transcript {
        answers,
        end,
        seen: seen.filter(|(_, seen)| !seen.is_empty()).collect(),
        ..Transcript::default()
    }
}

fn judge(case: &Case, [envoy, malla]: &[Vec<String>; 2]) -> Outcome {
    let (only_envoy, only_malla) = difference(envoy, malla);
    let show = |mark: &str, lines: &[String]| {
        let lines = lines.iter().map(|line| format!("  {mark} {line}\n"));
        lines.collect::<String>()
    };
    let found = || {
        format!(
            "--- envoy\n{}--- malla\n{}--- only one of them\n{}{}",
            show(" ", envoy),
            show(" ", malla),
            show("envoy:", &only_envoy),
            show("malla:", &only_malla)
        )
    };
    match &case.differs {
        None if only_envoy.is_empty() && only_malla.is_empty() => Outcome::Same,
        None => Outcome::Differs(found()),
        Some(differs) if differs.envoy == only_envoy && differs.malla == only_malla => {
            if only_envoy.is_empty() && only_malla.is_empty() {
                Outcome::Differs("`differs`, but nothing does".into())
            } else {
                Outcome::OnPurpose
            }
        }
        Some(_) => Outcome::Differs(format!("not as the case says\n{}", found())),
    }
}
