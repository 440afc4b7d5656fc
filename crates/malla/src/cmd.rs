//! One file per command: its arguments, and what it hands to which crate.

pub(crate) mod analyze;
pub(crate) mod console;
pub(crate) mod control;
pub(crate) mod demo;
pub(crate) mod in_cluster;
pub(crate) mod init;
pub(crate) mod local;
pub(crate) mod manifest;
pub(crate) mod proxy;
pub(crate) mod proxy_config;
pub(crate) mod proxy_status;
pub(crate) mod reach;
pub(crate) mod validate;
