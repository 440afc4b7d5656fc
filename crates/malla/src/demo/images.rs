//! Image names the demo knows, and what each runs as.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use malla_local::Image;

/// The mesh's own image: control plane, gateway, sidecar and init step.
pub(crate) const MALLA_IMAGE: &str = "malla/malla";

const SHOP: [&str; 8] = [
    "frontend", "product", "user", "cart", "order", "stock", "client", "visitors",
];

/// Where the node puts [`programs`] in every container.
const IN_CONTAINER: &str = "/malla/bin";
const ENVOY: &str = "envoy";

/// Where containers find Envoy, whatever folder of the user's it is in.
pub(crate) fn envoy_in_container() -> String {
    format!("{IN_CONTAINER}/{ENVOY}")
}

/// Names and places of the programs behind the image names: this very one, the shop's beside it,
/// and Envoy.
pub(crate) fn programs(shop: bool, envoy: Option<&Path>) -> Result<Vec<(String, PathBuf)>> {
    let malla = std::env::current_exe().context("find this program's own file")?;
    let mut programs = vec![("malla".to_owned(), malla.clone())];
    let beside = malla.with_file_name("malla-shop");
    if beside.is_file() {
        programs.push(("malla-shop".to_owned(), beside));
    } else if shop {
        bail!(
            "{} is missing: it is built together with malla (cargo build --release -p malla -p malla-shop)",
            beside.display()
        );
    }
    programs.extend(envoy.map(|path| (ENVOY.to_owned(), path.to_owned())));
    Ok(programs)
}

/// The image table the cluster starts with. The shop's services are known by any registry and path
/// that ends in their name, and by the names an older edition of the lessons has (`testorder2`).
pub(crate) fn images() -> Vec<Image> {
    let malla = format!("{IN_CONTAINER}/malla");
    let shop = format!("{IN_CONTAINER}/malla-shop");
    let mut images = vec![Image::new(MALLA_IMAGE, &[&malla])];
    for service in SHOP {
        let mut add = |pattern: String, version: &str| {
            images.push(Image::new(pattern, &[&shop, service, "--version", version]));
        };
        for (name, version) in [
            (service.to_owned(), "v1"),
            (format!("{service}:v2"), "v2"),
            (format!("test{service}"), "v1"),
            (format!("test{service}1"), "v1"),
            (format!("test{service}2"), "v2"),
        ] {
            add(format!("*/{name}"), version);
            add(name, version);
        }
    }
    images
}
