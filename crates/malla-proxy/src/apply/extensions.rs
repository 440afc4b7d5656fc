//! HTTP filters that come on their own (ECDS).
//!
//! Invariant: what is there under a name is of a type that everybody who names it takes; what is refused leaves the
//! last good one.
use malla_proxy_config::http_filter::Extension;
use malla_xds::client::{Rejection, Update};
use malla_xds_proto::core::TypedExtensionConfig;
use prost::Message;

use super::Applier;
use super::refs;

impl Applier {
    pub(super) fn apply_extensions(&mut self, update: &Update, rejected: &mut Vec<Rejection>) {
        let mut parsed = Vec::new();
        for received in &update.resources {
            if self.is_in_use(&update.type_url, received) {
                self.accept(&update.type_url, received);
                continue;
            }
            let extension = self.read(
                &update.type_url,
                received,
                TypedExtensionConfig::decode,
                Extension::from_proto_with,
                rejected,
            );
            let Some(extension) = extension else { continue };
            match self.refuses(&extension) {
                None => {
                    self.accept(&update.type_url, received);
                    parsed.push(extension);
                }
                Some(reason) => self.reject(&update.type_url, received, reason, rejected),
            }
        }
        if parsed.is_empty() && update.removed.is_empty() {
            return;
        }
        self.live.update_now(|draft| {
            for extension in parsed {
                draft.put_extension(extension);
            }
            for name in &update.removed {
                draft.remove_extension(name);
            }
        });
    }

    /// Why somebody who names it cannot use it, if so.
    fn refuses(&self, extension: &Extension) -> Option<String> {
        let snapshot = self.live.load_full();
        let mut seats = snapshot
            .listeners()
            .flat_map(|listener| refs::extensions_of(listener))
            .filter(|seat| seat.reference.name == extension.name);
        seats.find_map(|seat| seat.refuses(&extension.message))
    }
}
