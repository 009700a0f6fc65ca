//! What lies where in the run directory, which is on tmpfs and goes with the machine.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Files that every sandbox finds unless its image has its own: the least that programs expect.
const SKELETON: [(&str, &str); 5] = [
    ("etc/hosts", "127.0.0.1 localhost\n::1 localhost\n"),
    ("etc/resolv.conf", ""),
    ("etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n"),
    (
        "etc/passwd",
        "root:x:0:0:root:/:/bin/sh\nfunction:x:1000:1000:function:/tmp:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n",
    ),
    ("etc/group", "root:x:0:\nfunction:x:1000:\nnogroup:x:65534:\n"),
];

/// Directories that every sandbox has.
const SKELETON_FOLDERS: [&str; 8] = ["proc", "sys", "dev", "tmp", "run", "etc", "var", "var/task"];

/// What a zygote runs, in a layer of its own.
const ZYGOTE: [(&str, &str); 2] = [
    ("opt/hearth/zygote.py", include_str!("../../languages/python3/zygote.py")),
    ("opt/hearth/bootstrap.py", include_str!("../../languages/python3/bootstrap.py")),
];

/// Files of the host that a sandbox on the host's network sees.
const NETWORK_FILES: [&str; 2] = ["etc/resolv.conf", "etc/hosts"];

/// The run directory.
#[derive(Clone, Debug)]
pub(super) struct Layout(PathBuf);

impl Layout {
    pub(super) fn new(run_dir: PathBuf) -> Self {
        Self(run_dir)
    }

    /// Makes what every sandbox shares.
    ///
    /// Sandboxes run as users of their own and must be able to pass through to their root, but not into each other's folders.
    pub(super) fn prepare(&self) -> io::Result<()> {
        for (folder, mode) in
            [(self.0.clone(), 0o711), (self.containers(), 0o711), (self.slots(), 0o700), (self.blank_root(), 0o755)]
        {
            fs::create_dir_all(&folder)?;
            fs::set_permissions(&folder, fs::Permissions::from_mode(mode))?;
        }
        for folder in ["newroot", "proc", "dev", "sys"] {
            fs::create_dir_all(self.blank_root().join(folder))?;
        }
        for folder in SKELETON_FOLDERS {
            fs::create_dir_all(self.skeleton().join(folder))?;
        }
        for (file, text) in SKELETON {
            fs::write(self.skeleton().join(file), text)?;
        }
        fs::create_dir_all(self.zygote().join("opt/hearth"))?;
        for (file, text) in ZYGOTE {
            fs::write(self.zygote().join(file), text)?;
        }
        fs::create_dir_all(self.host_network().join("etc"))?;
        for file in NETWORK_FILES {
            // A host without one has nothing to show.
            if let Ok(text) = fs::read(Path::new("/").join(file)) {
                fs::write(self.host_network().join(file), text)?;
            }
        }
        Ok(())
    }

    /// Where libcontainer keeps its state.
    pub(super) fn containers(&self) -> PathBuf {
        self.0.join("containers")
    }

    fn slots(&self) -> PathBuf {
        self.0.join("sandboxes")
    }

    /// The folder of one sandbox: bundle, pipes, channel, label.
    pub(super) fn slot(&self, name: &str) -> PathBuf {
        self.slots().join(name)
    }

    /// The root of every blank sandbox.
    pub(super) fn blank_root(&self) -> PathBuf {
        self.0.join("blank")
    }

    /// The lowest layer of every root.
    pub(super) fn skeleton(&self) -> PathBuf {
        self.0.join("skeleton")
    }

    /// The uppermost layer of a zygote's root.
    pub(super) fn zygote(&self) -> PathBuf {
        self.0.join("zygote")
    }

    /// The uppermost layer of roots on the host's network.
    pub(super) fn host_network(&self) -> PathBuf {
        self.0.join("host-network")
    }

    /// Returns the names of all sandboxes.
    pub(super) fn names(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.slots()) else { return Vec::new() };
        entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }

    /// Removes what a sandbox leaves in the run directory.
    pub(super) fn remove(&self, name: &str) {
        for folder in [self.slot(name), self.containers().join(name)] {
            match fs::remove_dir_all(&folder) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => tracing::warn!(folder = %folder.display(), %error, "a sandbox's folder was left behind"),
            }
        }
    }
}
