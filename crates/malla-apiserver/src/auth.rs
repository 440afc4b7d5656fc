//! Who is asking: client certificates and service-account tokens, and what each may do.
//!
//! Policy: everybody who proves an identity may do everything (the local cluster is one user's own); nobody else may do
//! more than ask for health and version. Credentials are checked by signature only; there is no secret to compare.

mod authority;
pub(crate) mod impersonate;
pub(crate) mod request;
pub(crate) mod review;
mod token;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

pub(crate) use authority::{Authority, KeysError, Names, user_of};
pub(crate) use token::TokenKeys;

const AUTHENTICATED: &str = "system:authenticated";
const UNAUTHENTICATED: &str = "system:unauthenticated";
const ANONYMOUS: &str = "system:anonymous";

/// A proven identity, or the anonymous one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) groups: Vec<String>,
    pub(crate) extra: BTreeMap<String, Vec<String>>,
}

impl User {
    /// A client certificate's CN and Os.
    pub(crate) fn certified(name: String, mut groups: Vec<String>) -> Self {
        groups.push(AUTHENTICATED.to_owned());
        Self {
            name,
            groups,
            ..Self::default()
        }
    }

    /// A request without credentials.
    pub(crate) fn anonymous() -> Self {
        Self {
            name: ANONYMOUS.to_owned(),
            groups: vec![UNAUTHENTICATED.to_owned()],
            ..Self::default()
        }
    }

    /// A component of this process.
    pub(crate) fn component(name: &str) -> Arc<Self> {
        Arc::new(Self::certified(
            format!("system:{name}"),
            vec!["system:masters".to_owned()],
        ))
    }

    pub(crate) fn is_anonymous(&self) -> bool {
        self.name == ANONYMOUS
    }

    /// `authentication.k8s.io/v1 UserInfo`.
    pub(crate) fn info(&self) -> Value {
        let mut info = json!({"username": self.name});
        if !self.uid.is_empty() {
            info["uid"] = self.uid.clone().into();
        }
        info["groups"] = self.groups.clone().into();
        if !self.extra.is_empty() {
            info["extra"] = json!(self.extra);
        }
        info
    }
}
