//! Damage to the files of a node that does not run.

use std::fs;
use std::path::{Path, PathBuf};

/// Every plain file below `dir`, in a fixed order.
pub fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![dir.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display())) {
            let path = entry.expect("an entry of the directory").path();
            let meta = fs::symlink_metadata(&path).expect("a file that is there");
            if meta.is_dir() {
                open.push(path);
            } else if meta.is_file() {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// Copies everything below `from` to `to`, which is replaced.
pub fn copy_dir(from: &Path, to: &Path) {
    if to.exists() {
        fs::remove_dir_all(to).expect("the former copy can go");
    }
    fs::create_dir_all(to).expect("a directory for the copy");
    for entry in fs::read_dir(from).expect("a directory to copy") {
        let path = entry.expect("an entry of the directory").path();
        let target = to.join(path.file_name().expect("entries have names"));
        let meta = fs::symlink_metadata(&path).expect("a file that is there");
        if meta.is_dir() {
            copy_dir(&path, &target);
        } else if meta.is_symlink() {
            let to = fs::read_link(&path).expect("a link");
            std::os::unix::fs::symlink(to, target).expect("the same link");
        } else {
            fs::copy(&path, target).expect("a copy");
        }
    }
}

/// Turns one bit of a file, by its place from the file's start.
pub fn flip_bit(path: &Path, bit: u64) {
    let mut bytes = fs::read(path).expect("a file to damage");
    let at = usize::try_from(bit / 8).expect("a place in the file");
    bytes[at] ^= 1 << (bit % 8);
    fs::write(path, bytes).expect("the damaged file");
}

/// The names of the pages directories in a data directory: those that `CURRENT` names, and the others, which are not
/// in force yet or no longer.
pub fn pages_dirs(data: &Path) -> (Vec<String>, Vec<String>) {
    // The names come first: a directory that comes into force in between counts as in force.
    let mut names: Vec<String> = fs::read_dir(data)
        .map(|entries| entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect())
        .unwrap_or_default();
    names.retain(|name| name.starts_with("pages-"));
    names.sort();
    let current = fs::read_to_string(data.join("CURRENT")).unwrap_or_default();
    let named: Vec<&str> = current.lines().filter_map(|line| line.split(' ').next_back()).collect();
    names.into_iter().partition(|name| named.contains(&name.as_str()))
}
