//! Compiles every .proto file below `proto/` without `protoc`, and writes the descriptor set that reflection serves.

use std::error::Error;
use std::path::{Path, PathBuf};

use prost::Message;

/// The packages, one folder each. A new file in one of them is compiled without being named here.
const PACKAGES: [&str; 2] = ["berth/v1", "berth/internal"];

fn main() -> Result<(), Box<dyn Error>> {
    let root = Path::new(&std::env::var("CARGO_MANIFEST_DIR")?).join("../../proto");
    let mut files = Vec::new();
    for package in PACKAGES {
        let folder = root.join(package);
        println!("cargo::rerun-if-changed={}", folder.display());
        files.extend(proto_files(&folder)?);
    }

    let descriptors = protox::compile(&files, [&root])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("berth_descriptors.bin"), descriptors.encode_to_vec())?;

    tonic_prost_build::configure()
        // Packed IDs and peers' payloads are slices of the receive buffer, not copies.
        .bytes(".berth")
        // Labels keep an order, so that equal messages have equal bytes.
        .btree_map(".berth")
        .include_file("berth.rs")
        .compile_fds(descriptors)?;
    Ok(())
}

/// The .proto files of a folder and the folders below it, in an order that does not depend on the file system.
fn proto_files(folder: &Path) -> Result<Vec<PathBuf>, Box<dyn Error>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(proto_files(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "proto") {
            println!("cargo::rerun-if-changed={}", path.display());
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
