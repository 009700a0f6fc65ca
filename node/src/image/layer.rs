//! Writes layers: the same files give the same bytes, whoever packs them and whenever.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Where a file of a layer comes from.
#[derive(Clone, Debug)]
pub(super) enum Content {
    Folder,
    /// A file of the host, copied as it is.
    Host(PathBuf),
    /// A file of the host with another beginning.
    Reheaded(PathBuf, Vec<u8>),
    /// A file whose bytes are at hand.
    Bytes(Vec<u8>),
    Link(PathBuf),
}

/// The files of a layer by their path, sorted; folders come before what is in them.
#[derive(Clone, Debug, Default)]
pub(super) struct Layer {
    entries: BTreeMap<PathBuf, (Content, bool)>,
}

impl Layer {
    /// Adds an entry and the folders above it; paths have no leading slash.
    pub(super) fn add(&mut self, path: impl AsRef<Path>, content: Content, is_executable: bool) {
        let path: PathBuf =
            path.as_ref().components().filter(|part| matches!(part, std::path::Component::Normal(_))).collect();
        for folder in path.ancestors().skip(1).filter(|folder| !folder.as_os_str().is_empty()) {
            self.entries.entry(folder.to_path_buf()).or_insert((Content::Folder, true));
        }
        self.entries.insert(path, (content, is_executable));
    }

    /// Adds a tree of the host below `target`; `skip` is asked about each entry, by its path within the tree.
    pub(super) fn add_tree(&mut self, source: &Path, target: &Path, skip: &dyn Fn(&Path) -> bool) -> io::Result<()> {
        let mut walk = walkdir::WalkDir::new(source).sort_by_file_name().into_iter();
        while let Some(entry) = walk.next() {
            let entry = entry.map_err(io::Error::other)?;
            let inner = entry.path().strip_prefix(source).map_err(io::Error::other)?.to_path_buf();
            if !inner.as_os_str().is_empty() && skip(&inner) {
                if entry.file_type().is_dir() {
                    walk.skip_current_dir();
                }
                continue;
            }
            let path = target.join(&inner);
            if entry.file_type().is_dir() {
                self.add(path, Content::Folder, true);
            } else if entry.file_type().is_symlink() {
                self.add(path, Content::Link(fs::read_link(entry.path())?), false);
            } else if entry.file_type().is_file() {
                self.add_file(entry.path(), path)?;
            }
        }
        Ok(())
    }

    /// Adds one file of the host.
    pub(super) fn add_file(&mut self, source: &Path, target: impl AsRef<Path>) -> io::Result<()> {
        let mode = fs::metadata(source)?.permissions().mode();
        self.add(target, Content::Host(source.to_path_buf()), mode & 0o111 != 0);
        Ok(())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Returns how many bytes its files have in all.
    pub(super) fn size(&self) -> io::Result<u64> {
        self.entries.values().try_fold(0, |sum, (content, _)| {
            Ok(sum
                + match content {
                    Content::Host(path) | Content::Reheaded(path, _) => fs::metadata(path)?.len(),
                    Content::Bytes(bytes) => u64::try_from(bytes.len()).map_err(io::Error::other)?,
                    Content::Folder | Content::Link(_) => 0,
                })
        })
    }

    /// Writes the layer as a tar: sorted, owned by root, without times, modes 755 and 644.
    pub(super) fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let mut tar = tar::Builder::new(out);
        for (path, (content, is_executable)) in &self.entries {
            let mut header = tar::Header::new_gnu();
            header.set_mode(if *is_executable { 0o755 } else { 0o644 });
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(0);
            match content {
                Content::Folder => {
                    header.set_entry_type(tar::EntryType::Directory);
                    header.set_size(0);
                    tar.append_data(&mut header, path, io::empty())?;
                }
                Content::Link(target) => {
                    header.set_entry_type(tar::EntryType::Symlink);
                    header.set_size(0);
                    header.set_mode(0o777);
                    tar.append_link(&mut header, path, target)?;
                }
                Content::Bytes(bytes) => {
                    header.set_size(u64::try_from(bytes.len()).map_err(io::Error::other)?);
                    tar.append_data(&mut header, path, &bytes[..])?;
                }
                Content::Reheaded(source, head) => {
                    let mut file = File::open(source)?;
                    let size = file.metadata()?.len();
                    header.set_size(size);
                    io::copy(
                        &mut (&mut file).take(u64::try_from(head.len()).map_err(io::Error::other)?),
                        &mut io::sink(),
                    )?;
                    tar.append_data(&mut header, path, head.chain(file).take(size))?;
                }
                Content::Host(source) => {
                    let file = File::open(source)?;
                    let size = file.metadata()?.len();
                    header.set_size(size);
                    // A file that grows meanwhile is cut, one that shrinks is an error: never a torn archive.
                    tar.append_data(&mut header, path, file.take(size))?;
                }
            }
        }
        tar.into_inner()?.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_files_give_the_same_bytes_in_any_order() {
        let pack = |names: [&str; 3]| {
            let mut layer = Layer::default();
            for name in names {
                layer.add(name, Content::Bytes(b"text".to_vec()), false);
            }
            let mut bytes = Vec::new();
            layer.write(&mut bytes).expect("memory takes everything");
            bytes
        };
        assert_eq!(pack(["a/b", "/c", "a/d/e"]), pack(["a/d/e", "a/b", "c"]));
    }
    #[test]
    fn a_file_with_another_beginning_keeps_its_length_and_its_end() {
        let file = tempfile::NamedTempFile::new().expect("a file can be made");
        fs::write(file.path(), b"0123456789").expect("the file can be written");
        let mut layer = Layer::default();
        layer.add("a", Content::Reheaded(file.path().to_path_buf(), b"abc".to_vec()), false);
        let mut bytes = Vec::new();
        layer.write(&mut bytes).expect("memory takes everything");
        let mut archive = tar::Archive::new(&bytes[..]);
        let mut entry = archive.entries().expect("it is an archive").next().expect("one entry").expect("it is sound");
        let mut text = String::new();
        entry.read_to_string(&mut text).expect("it can be read");
        assert_eq!(text, "abc3456789");
    }
}
