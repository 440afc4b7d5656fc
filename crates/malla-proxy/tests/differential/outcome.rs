//! How the cases came out, and the table that says so.

use std::collections::BTreeMap;

/// How many cases may differ in the crowd and not alone. More, and the run shows nothing.
const UNSTEADY: usize = 3;

/// How one case came out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    Same,
    OnPurpose,
    /// It differed beside others, as told, and did not when it had the machine to itself: one of the two was late.
    Unsteady(String),
    Differs(String),
}

impl Outcome {
    fn differs(&self) -> bool {
        matches!(self, Self::Differs(_))
    }
}

#[derive(Debug)]
pub(crate) struct Finished {
    /// `area/file: name`
    pub(crate) name: String,
    pub(crate) outcome: Outcome,
}

/// What differed in the crowd is run once more alone: what differs then too differs.
pub(crate) fn alone_again(crowd: Vec<Finished>, run: impl Fn() -> Vec<Finished>) -> Vec<Finished> {
    if !crowd.iter().any(|one| one.outcome.differs()) {
        return crowd;
    }
    let mut alone = run();
    for one in &mut alone {
        if one.outcome.differs() {
            continue;
        }
        // A family that did not start is there by its own name.
        let before = crowd.iter().find(|before| {
            let rest = one.name.strip_prefix(&before.name);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(": "))
        });
        if let Some(Outcome::Differs(how)) = before.map(|before| &before.outcome) {
            one.outcome = Outcome::Unsteady(how.clone());
        }
    }
    alone
}

/// What needs a look, in full and first, for who reads the beginning only; then the table.
#[expect(clippy::print_stdout, reason = "the table is what the command is for")]
pub(crate) fn report(done: &[Finished]) {
    let mut areas: BTreeMap<&str, [usize; 4]> = BTreeMap::new();
    let mut lines = String::new();
    let mut told = String::new();
    let mut total = [0; 4];
    for one in done {
        let (area, case) = one.name.split_once('/').unwrap_or(("", &one.name));
        let (at, word, how) = match &one.outcome {
            Outcome::Same => (0, "same", None),
            Outcome::OnPurpose => (1, "differs on purpose", None),
            Outcome::Unsteady(how) => (2, "unsteady", Some(how)),
            Outcome::Differs(how) => (3, "DIFFERS", Some(how)),
        };
        areas.entry(area).or_default()[at] += 1;
        total[at] += 1;
        lines.push_str(&format!("{area:<14} {word:<19} {case}\n"));
        if let Some(how) = how {
            told.push_str(&format!("=== {word}: {}\n{how}\n", one.name));
        }
    }
    let row = |name: &str, [same, purpose, unsteady, differs]: [&str; 4]| {
        format!("{name:<14} {same:>6} {purpose:>19} {unsteady:>9} {differs:>8}\n")
    };
    let sums = |name: &str, counts: [usize; 4]| {
        let counts = counts.map(|count| count.to_string());
        row(name, counts.each_ref().map(String::as_str))
    };
    let mut table = row(
        "area",
        ["same", "differs on purpose", "unsteady", "differs"],
    );
    for (area, counts) in areas {
        table.push_str(&sums(area, counts));
    }
    table.push_str(&sums("all", total));
    println!("{told}\n{lines}\n{table}");
    let [_, _, unsteady, differs] = total;
    assert!(differs == 0, "{differs} cases differ: see above");
    assert!(
        unsteady <= UNSTEADY,
        "{unsteady} cases differed until they were alone, and {UNSTEADY} may: see above"
    );
}
