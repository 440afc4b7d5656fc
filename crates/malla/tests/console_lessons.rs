//! The lessons, end to end, through the console alone, from a mesh without a shop to the last one.
//!
//! The console's pages are visited while the shop is: with `MALLA_BLESS=1` their pictures replace
//! those of `docs/console`.

mod lessons;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use malla_testkit::Demo;

use lessons::{Class, Console, Hand as _, LESSONS, Shop, attend, nothing_was_refused};

/// The lessons before the clients begin, who would leave a small machine no time for the browser.
const BEFORE_THE_TOUR: usize = 9;

#[test]
fn the_lessons_are_true_through_the_console_alone() {
    let malla = Path::new(env!("CARGO_BIN_EXE_malla"));
    let demo = Demo::start(malla, "console", &["--no-shop"]);
    let console = Console::new(&demo.console());
    console.lesson("q00-shop");
    console.lesson("q01-gateway");
    let class = Class {
        demo: &demo,
        hand: &console,
        shop: Shop::new(console.gateway_address().trim_end_matches('/')),
    };
    let (before, after) = LESSONS.split_at(BEFORE_THE_TOUR);
    attend("console", &class, before);
    visited(&class.shop, || console.tour(&pictures()));
    attend("console", &class, after);
    nothing_was_refused(&demo);
    demo.stop();
}

/// Does something while the shop has a visitor who never tires.
fn visited(shop: &Shop, what: impl FnOnce()) {
    let enough = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut visits = 0;
            while !enough.load(Ordering::Relaxed) {
                visits += 1;
                // What is answered is not this visitor's concern.
                drop(shop.product());
                drop(shop.user(visits % 5 + 1));
                drop(shop.cart(visits % 5 + 1, visits % 8 + 1, 1));
                let vip = if visits % 2 == 0 {
                    "vip=true"
                } else {
                    "vip=false"
                };
                drop(shop.order_call(Some(vip)));
            }
        });
        let _end = Enough(&enough);
        what();
    });
}

/// Says that it is enough, also when a test fails.
struct Enough<'a>(&'a AtomicBool);

impl Drop for Enough<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn pictures() -> PathBuf {
    if std::env::var_os("MALLA_BLESS").is_some() {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/console")
    } else {
        PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("console")
    }
}
