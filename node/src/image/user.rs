//! As whom an image runs: `user`, `user:group`, each a number or a name that the image itself knows.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use rustix::fs::{Mode, OFlags, ResolveFlags};

/// The largest list of users or groups that is read, in bytes.
const LIST_MAX: u64 = 1 << 20;

/// The largest id: those above have no place in a sandbox.
const ID_MAX: u32 = 65_534;

/// A user and a group inside a sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct User {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
}

/// Returns whom a config means; none where it says nothing, or nothing that can be.
pub(super) fn find(text: &str, layers: &[PathBuf]) -> Option<User> {
    let (user, group) = text.split_once(':').map_or((text, None), |(user, group)| (user, Some(group)));
    let (uid, usual_gid) = match number(user) {
        Some(uid) => (uid, None),
        None => {
            let passwd = read(layers, "etc/passwd");
            let entry = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|entry| entry[0] == user);
            match entry {
                Some(entry) => (number(entry.get(2)?)?, entry.get(3).and_then(|gid| number(gid))),
                // What every image means by it, also one without a list.
                None if user == "root" => (0, Some(0)),
                None => return None,
            }
        }
    };
    let gid = match group.filter(|group| !group.is_empty()) {
        None => usual_gid.unwrap_or(uid),
        Some(group) => match number(group) {
            Some(gid) => gid,
            None => {
                let list = read(layers, "etc/group");
                let entry =
                    list.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|entry| entry[0] == group);
                number(entry?.get(2)?)?
            }
        },
    };
    Some(User { uid, gid })
}

fn number(text: &str) -> Option<u32> {
    text.parse().ok().filter(|id| *id <= ID_MAX)
}

/// Returns a file as the highest layer has it that has it at all; what cannot be read is empty.
fn read(layers: &[PathBuf], path: &str) -> String {
    layers.iter().rev().find_map(|layer| read_in(layer, path)).unwrap_or_default()
}

fn read_in(layer: &PathBuf, path: &str) -> Option<String> {
    let root: OwnedFd = File::open(layer).ok()?.into();
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    // A pipe would wait for a writer.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = File::from(rustix::fs::openat2(root, path, flags, Mode::empty(), resolve).ok()?);
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut bytes = Vec::new();
    file.take(LIST_MAX).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_found_by_number_and_by_the_images_own_lists() {
        let folder = tempfile::tempdir().expect("a directory can be made");
        let etc = folder.path().join("etc");
        std::fs::create_dir(&etc).expect("it can be made");
        std::fs::write(etc.join("passwd"), "root:x:0:0::/:\napp:x:7:8::/:\nbad:x:seven\n").expect("it can be written");
        std::fs::write(etc.join("group"), "staff:x:50:\n").expect("it can be written");
        let layers = [folder.path().to_path_buf()];
        let found = |text: &str| find(text, &layers).map(|user| (user.uid, user.gid));
        assert_eq!(found("65532"), Some((65_532, 65_532)));
        assert_eq!(found("5:6"), Some((5, 6)));
        assert_eq!(found("app"), Some((7, 8)));
        assert_eq!(found("app:staff"), Some((7, 50)));
        assert_eq!(found("root"), Some((0, 0)));
        assert_eq!(find("root", &[]).map(|user| user.uid), Some(0));
        for none in ["", "nobody-knows", "bad", "app:nobody-knows", "4000000000", "-1", "5:4000000000"] {
            assert_eq!(found(none), None, "{none}");
        }
    }
}
