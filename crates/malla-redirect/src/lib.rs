//! Traffic capture for a pod: which connections go to its proxy, and the rules that send them there.
//!
//! [`plan`] reads the settings (the same flags and annotations as Istio's `istio-iptables`) into a
//! [`Plan`]; [`nft`] and [`iptables`] print that plan as a rule set, without touching the system;
//! [`apply`] feeds the text to whichever tool works here. Rule sets replace what an earlier run made,
//! so applying twice is the same as applying once.

pub mod apply;
pub mod iptables;
pub mod nft;
pub mod plan;

pub use apply::{Tool, apply, cleanup};
pub use plan::{BadSetting, Plan, Settings};
