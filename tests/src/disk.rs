//! Disks of their own for daemons: one in memory that can be full, and one that loses its power.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Asks the kernel to shut the file systems at some folders down: `EXT4_IOC_SHUTDOWN` of `linux/ext4.h` with
/// `EXT4_GOING_FLAGS_NOLOGFLUSH`, after which nothing reaches the disk, not even what the journal was about to say.
const SHUTDOWN: &str = "import fcntl, os, struct, sys
for folder in [os.open(path, os.O_RDONLY) for path in sys.argv[1:]]:
    fcntl.ioctl(folder, 0x8004587d, struct.pack('I', 2))";

/// A small file system of its own; dropping it unmounts it.
#[derive(Debug)]
pub struct Disk {
    folder: PathBuf,
    /// The file that a journalled file system lies in; none where it is in memory.
    image: Option<PathBuf>,
    /// How often its power was cut.
    cuts: u32,
}

impl Disk {
    /// Mounts a file system that lies in memory.
    pub(crate) fn mount(folder: &Path, mebibytes: u32) -> Self {
        std::fs::create_dir_all(folder).expect("the folder can be made");
        let size = format!("size={mebibytes}m,mode=755");
        run(Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(folder));
        Self { folder: folder.to_path_buf(), image: None, cuts: 0 }
    }

    /// Makes a journalled file system in the file `image` and mounts it.
    pub(crate) fn make(image: &Path, folder: &Path, mebibytes: u64) -> Self {
        let file = File::create(image).expect("a file can be made");
        file.set_len(mebibytes << 20).expect("it can have holes");
        run(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(image));
        std::fs::create_dir_all(folder).expect("the folder can be made");
        let this = Self { folder: folder.to_path_buf(), image: Some(image.to_path_buf()), cuts: 0 };
        this.plug_in();
        this
    }

    fn plug_in(&self) {
        let image = self.image.as_ref().expect("only what lies in a file loses its power");
        run(Command::new("mount").args(["-o", "loop"]).arg(image).arg(&self.folder));
    }

    /// Cuts the power of disks at one instant: what was not made durable is lost, and nothing can be read or written any more.
    pub(crate) fn cut_power(disks: &[&Self]) {
        run(Command::new("python3").args(["-c", SHUTDOWN]).args(disks.iter().map(|disk| &disk.folder)));
    }

    /// Ends every process that runs from the disk, and mounts what is left on it after the power cut.
    ///
    /// It is a copy: wherever else the disk is still mounted, as in the mounts of other daemons, it stays as it was shut down.
    pub(crate) fn restore_power(&mut self) {
        for process in self.users() {
            let _ = Command::new("kill").args(["-KILL", &process]).stderr(Stdio::null()).status();
        }
        let image = self.image.as_mut().expect("only what lies in a file loses its power");
        let copy = image.with_extension(format!("{}", self.cuts));
        self.cuts += 1;
        run(Command::new("umount").arg("--lazy").arg(&self.folder));
        run(Command::new("cp").arg("--sparse=always").arg(&*image).arg(&copy));
        std::fs::remove_file(&*image).expect("the file can be deleted");
        *image = copy;
        self.plug_in();
    }

    /// Returns the processes that have a layer of an image on the disk as their root: those of sandboxes.
    fn users(&self) -> Vec<String> {
        let inside = format!("{}/", self.folder.display());
        let processes = std::fs::read_dir("/proc").expect("it is mounted").filter_map(Result::ok);
        let numbers = processes.filter_map(|entry| entry.file_name().into_string().ok());
        let numbers = numbers.filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()));
        numbers
            .filter(|process| {
                let mounts = std::fs::read_to_string(Path::new("/proc").join(process).join("mountinfo"));
                mounts.is_ok_and(|mounts| mounts.lines().next().is_some_and(|root| root.contains(&inside)))
            })
            .collect()
    }

    /// Fills the disk to its last byte.
    pub fn fill(&self) {
        let mut file = File::create(self.folder.join("filler")).expect("a file can be made");
        let zeros = vec![0; 1 << 20];
        while file.write_all(&zeros).is_ok() {}
        while file.write_all(&[0]).is_ok() {}
    }

    /// Makes the room again that [`Disk::fill`] took.
    pub fn empty(&self) {
        std::fs::remove_file(self.folder.join("filler")).expect("the file can be deleted");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.folder).status();
    }
}

fn run(command: &mut Command) {
    let status = command.status();
    assert!(status.is_ok_and(|status| status.success()), "{command:?} failed");
}
