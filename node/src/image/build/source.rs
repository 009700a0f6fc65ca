//! Files of a function's source, which is a stranger's: no path and no link leads out of it.

use std::fs;
use std::path::{Path, PathBuf};

use super::BuildError;

/// The longest list of dependencies, in bytes.
const LIST_MAX: u64 = 16 << 20;

/// Returns where a file of the source really lies.
pub(super) fn file(source: &Path, path: &str) -> Result<PathBuf, BuildError> {
    let missing = || BuildError::Missing { path: path.to_owned() };
    let root = source.canonicalize()?;
    // A link may name another file of the source, but none of the machine.
    let found = root.join(path).canonicalize().map_err(|_| missing())?;
    if found.starts_with(&root) && found.is_file() { Ok(found) } else { Err(missing()) }
}

/// Reads a small file of the source.
pub(super) fn read(source: &Path, path: &str) -> Result<Vec<u8>, BuildError> {
    let found = file(source, path)?;
    let size = fs::metadata(&found)?.len();
    if size > LIST_MAX {
        return Err(BuildError::ListTooLarge { path: path.to_owned(), size, limit: LIST_MAX });
    }
    Ok(fs::read(found)?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_link_inside_is_followed_and_one_that_leads_out_finds_nothing() {
        let (source, outside) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
        fs::create_dir(source.path().join("bin")).expect("a folder can be made");
        fs::write(source.path().join("bin/main"), b"program").expect("a file can be written");
        fs::write(outside.path().join("secret"), b"secret").expect("a file can be written");
        symlink("bin/main", source.path().join("bootstrap")).expect("a link can be made");
        symlink(outside.path().join("secret"), source.path().join("out")).expect("a link can be made");
        symlink(outside.path(), source.path().join("folder")).expect("a link can be made");
        assert_eq!(read(source.path(), "bootstrap").expect("it is inside"), b"program");
        let name = outside.path().file_name().expect("it has a name").to_string_lossy().into_owned();
        for path in ["out", "folder/secret", "nothing", "bin", "/etc/passwd", &format!("../{name}/secret")] {
            assert!(matches!(read(source.path(), path), Err(BuildError::Missing { .. })), "{path}");
        }
    }
}
