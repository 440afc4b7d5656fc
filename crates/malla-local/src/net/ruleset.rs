//! Keeps the node's nftables in step with the Services, by `nft -f -` inside its namespace.
//!
//! Invariant: one writer; after a failed change everything is loaded anew, so the kernel and
//! `applied` cannot drift apart.

use std::io;
use std::process::Stdio;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::namespace::Namespace;
use super::rules::{self, Addresses, Services, TABLE};

/// Why rules could not be set.
#[derive(Debug, thiserror::Error)]
pub enum RulesError {
    #[error("nft is missing: install the package nftables (`sudo apt install nftables`)")]
    Missing,
    #[error("run nft: {0}")]
    Run(#[from] io::Error),
    #[error("nft refused the service rules: {0}")]
    Refused(String),
}

/// The Service rules of a node.
#[derive(Debug)]
pub struct ServiceRules {
    namespace: Namespace,
    addresses: Addresses,
    applied: Services,
}

impl ServiceRules {
    /// Loads the hooks into the node's namespace.
    pub async fn load(namespace: Namespace, addresses: Addresses) -> Result<Self, RulesError> {
        run_nft(&namespace, rules::base(&addresses)).await?;
        Ok(Self {
            namespace,
            addresses,
            applied: Services::new(),
        })
    }

    /// Makes the kernel's rules those of `services`, in one transaction.
    pub async fn apply(&mut self, services: Services) -> Result<(), RulesError> {
        let script = rules::change(&self.applied, &services);
        if script.is_empty() {
            return Ok(());
        }
        if let Err(error) = run_nft(&self.namespace, script).await {
            tracing::warn!(%error, "a change of the service rules failed; loading all of them");
            self.reload(&services).await?;
        }
        self.applied = services;
        Ok(())
    }

    async fn reload(&mut self, services: &Services) -> Result<(), RulesError> {
        let base = rules::base(&self.addresses);
        let all = rules::change(&Services::new(), services);
        let script = format!("add table ip {TABLE}\ndelete table ip {TABLE}\n{base}{all}");
        run_nft(&self.namespace, script).await
    }
}

/// The child inherits the network namespace of the thread that starts it.
async fn run_nft(namespace: &Namespace, script: String) -> Result<(), RulesError> {
    let runtime = tokio::runtime::Handle::current();
    let started = namespace
        .run(move || {
            let _reaps_here = runtime.enter();
            Command::new("nft")
                .args(["-f", "-"])
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .kill_on_drop(true)
                .spawn()
        })
        .await;
    let mut nft = match started {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(RulesError::Missing),
        other => other?,
    };
    if let Some(mut stdin) = nft.stdin.take() {
        stdin.write_all(script.as_bytes()).await?;
    }
    let output = nft.wait_with_output().await?;
    if output.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(RulesError::Refused(message))
}
