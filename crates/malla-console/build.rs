//! Makes sure that the folder of the built pages can be embedded and is watched for changes.

fn main() {
    // An empty folder is a console that says how to build its pages. Where it cannot be made, the
    // embedding finds none, which comes to the same.
    drop(std::fs::create_dir_all("../../ui/dist"));
    println!("cargo:rerun-if-changed=../../ui/dist");
    println!("cargo:rerun-if-changed=build.rs");
}
