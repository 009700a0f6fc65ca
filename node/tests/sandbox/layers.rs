//! What a layer may try: links where the kernel's file systems go, privileged files, devices, programs that are our own.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use node::sandbox::ID_SHIFT;
use rustix::fs::{CWD, FileType, Mode, XattrFlags};
use sha2::{Digest, Sha256};

use crate::Test;
use crate::host::{Host, PROBE, open_folder};

pub(crate) const TESTS: &[Test] = tests![
    links_in_place_of_the_kernels_folders_lead_nowhere,
    false_files_in_a_layer_mask_nothing,
    setuid_and_file_capabilities_give_nothing,
    devices_of_a_layer_do_not_open,
    our_own_program_is_never_open_for_writing,
    a_loader_of_a_layer_cannot_write_to_our_program,
];

/// A file system attribute of the host that tells whether anything below a path was changed.
type Seen = BTreeMap<PathBuf, (u32, u64, i64, i64)>;

/// Looks at what lies directly in the folders of the host that a link might lead to.
fn look(folders: &[&Path]) -> Seen {
    let mut seen = Seen::new();
    for folder in folders {
        for entry in fs::read_dir(folder).expect("the folder is there").flatten() {
            let Ok(metadata) = fs::symlink_metadata(entry.path()) else { continue };
            let place = (metadata.mode(), metadata.ino(), metadata.mtime(), metadata.ctime());
            seen.insert(entry.path(), place);
        }
    }
    seen
}

async fn links_in_place_of_the_kernels_folders_lead_nowhere() {
    let host = Host::start();
    let secret = open_folder();
    fs::write(secret.path().join("secret"), "of the host").expect("a file can be written");
    fs::create_dir(secret.path().join("pts")).expect("a folder can be made");
    let climb = "../".repeat(20);
    let outside = secret.path().to_string_lossy().into_owned();
    let relative = format!("{climb}{}", outside.trim_start_matches('/'));
    let watched: [&Path; 3] = [secret.path(), Path::new("/etc"), Path::new("/bin")];
    let before = look(&watched);
    let targets = ["/", "..", "/etc", "/proc/self/root", "/newroot", outside.as_str(), relative.as_str()];
    for folder in ["proc", "sys", "dev", "tmp", "etc"] {
        for target in targets {
            let layer = open_folder();
            symlink(target, layer.path().join(folder)).expect("a link can be made");
            let mut request =
                host.request("cat /*/secret /tmp/../*/secret; echo x > /etc/passwd; cat /proc/kcore; true");
            request.layers.push(layer.path().to_path_buf());
            match host.sandboxes.launch(request).await {
                Ok(sandbox) => {
                    let (text, _) = crate::host::finish(&sandbox).await;
                    assert!(!text.contains("of the host"), "/{folder} to {target}: {text}");
                    assert!(folder == "etc", "/{folder} to {target} was taken: {text}");
                }
                Err(error) => assert!(folder != "etc", "/{folder} to {target}: {error}"),
            }
        }
    }
    assert_eq!(look(&watched), before, "the host was changed");
    host.end().await;
}

async fn false_files_in_a_layer_mask_nothing() {
    let host = Host::start();
    let layer = open_folder();
    for folder in ["dev", "proc/sys/kernel"] {
        fs::create_dir_all(layer.path().join(folder)).expect("a folder can be made");
    }
    fs::write(layer.path().join("dev/null"), "false").expect("a file can be written");
    symlink("/proc/sys/kernel/domainname", layer.path().join("dev/zero")).expect("a link can be made");
    fs::write(layer.path().join("proc/keys"), "false").expect("a file can be written");
    let mut request = host.request("cat /dev/null /proc/keys; busybox stat -c %F /dev/null /dev/zero");
    request.layers.push(layer.path().to_path_buf());
    let (text, _) = host.run_one(request).await;
    assert_eq!(text, "character special file\ncharacter special file\n");
    host.end().await;
}

async fn setuid_and_file_capabilities_give_nothing() {
    let host = Host::start();
    let layer = open_folder();
    let source = crate::host::probe_layer().join(PROBE.trim_start_matches('/'));
    let (setuid, capable) = (layer.path().join("setuid"), layer.path().join("capable"));
    for program in [&setuid, &capable] {
        fs::copy(&source, program).expect("the probe can be copied");
        chown(program, Some(ID_SHIFT), Some(ID_SHIFT)).expect("the owner can be set");
    }
    fs::set_permissions(&setuid, fs::Permissions::from_mode(0o6755)).expect("the mode can be set");
    fs::set_permissions(&capable, fs::Permissions::from_mode(0o755)).expect("the mode can be set");
    // Version 3 of the attribute with everything permitted and effective, for the root of the sandbox.
    let words = [0x0300_0001, u32::MAX, 0, u32::MAX, 0, ID_SHIFT];
    let value: Vec<u8> = words.iter().flat_map(|word: &u32| word.to_le_bytes()).collect();
    rustix::fs::setxattr(&capable, "security.capability", &value, XattrFlags::empty()).expect("root may set it");
    for program in ["/setuid", "/capable"] {
        let mut request = host.probing(&format!("busybox stat -c '%u %a' {program}; {program} probe who"));
        request.layers.push(layer.path().to_path_buf());
        let (text, _) = host.run_one(request).await;
        let mode = if program == "/setuid" { "0 6755" } else { "0 755" };
        let none = "0000000000000000";
        let expected = format!(
            "{mode}\nUid: 1000 1000 1000 1000\nGid: 1000 1000 1000 1000\nCapPrm: {none}\nCapEff: {none}\nCapBnd: {none}\nCapAmb: {none}\n"
        );
        assert_eq!(text, expected, "{program}");
    }
    host.end().await;
}

async fn devices_of_a_layer_do_not_open() {
    let host = Host::start();
    let layer = open_folder();
    // The null device, the kernel's log, and the first disk of every kind.
    let devices = [("null", 1, 3), ("kmsg", 1, 11), ("vda", 254, 0), ("sda", 8, 0), ("loop", 7, 0), ("fuse", 10, 229)];
    for (name, major, minor) in devices {
        let kind =
            if matches!(name, "vda" | "sda" | "loop") { FileType::BlockDevice } else { FileType::CharacterDevice };
        let path = layer.path().join(name);
        let device = rustix::fs::makedev(major, minor);
        rustix::fs::mknodat(CWD, &path, kind, Mode::from_raw_mode(0o666), device).expect("root may make it");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).expect("the mode can be set");
    }
    let mut request =
        host.probing("for name in null kmsg vda sda loop fuse; do $PROBE read /$name; $PROBE write /$name; done");
    request.layers.push(layer.path().to_path_buf());
    let (text, _) = host.run_one(request).await;
    let outcomes: Vec<&str> = text.lines().collect();
    assert_eq!(outcomes.len(), 2 * devices.len(), "{text}");
    // Reading meets the mount's refusal of devices, writing perhaps first that the root is read-only.
    assert!(outcomes.iter().all(|outcome| ["EACCES", "EROFS"].contains(outcome)), "{text}");
    host.end().await;
}

fn own_program(host: &Host) -> String {
    let bytes = fs::read(&host.config.executable).expect("our program can be read");
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

async fn our_own_program_is_never_open_for_writing() {
    let host = Host::start();
    let before = own_program(&host);
    let layer = open_folder();
    for (name, argument) in [("plain", ""), ("spawner", " spawner"), ("agent", " agent")] {
        let script = layer.path().join(name);
        fs::write(&script, format!("#!/proc/self/exe{argument}\n")).expect("a file can be written");
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("the mode can be set");
    }
    for argv in [vec!["/plain"], vec!["/spawner", "parent"], vec!["/agent"], vec!["/proc/self/exe"]] {
        let mut request = host.program(&argv);
        // With the libraries of the probe, which are those of our program.
        request.layers.extend([crate::host::probe_layer(), layer.path().to_path_buf()]);
        let (text, exit) = host.run_one(request).await;
        assert!(exit.code != Some(0), "{argv:?}: {text} {exit:?}");
    }
    let (text, _) = host
        .probe(
            "for exe in /proc/self/exe /proc/1/exe /proc/$$/exe; do $PROBE write $exe; $PROBE both $exe; done; \
             echo x >> /proc/self/exe; exec $PROBE write /proc/1/exe",
        )
        .await;
    let outcomes: Vec<&str> = text.lines().filter(|line| !line.contains("sh:")).collect();
    assert_eq!(outcomes.len(), 7, "{text}");
    assert!(outcomes.iter().all(|outcome| ["EROFS", "EACCES", "ETXTBSY"].contains(outcome)), "{text}");
    assert_eq!(own_program(&host), before, "our program was changed");
    host.end().await;
}

/// Returns a whole program for this architecture that opens `/proc/self/exe` for writing and ends with the error's number.
fn loader() -> Vec<u8> {
    const BASE: u64 = 0x40_0000;
    const HEADERS: u64 = 64 + 56;
    #[rustfmt::skip]
    let code = [
        &[0xb8, 2, 0, 0, 0][..],             // mov eax, open
        &[0x48, 0x8d, 0x3d, 18, 0, 0, 0],    // lea rdi, [rip + path]
        &[0xbe, 1, 0, 0, 0],                 // mov esi, O_WRONLY
        &[0x0f, 0x05],                       // syscall
        &[0xf7, 0xd8],                       // neg eax
        &[0x89, 0xc7],                       // mov edi, eax
        &[0xb8, 60, 0, 0, 0],                // mov eax, exit
        &[0x0f, 0x05],                       // syscall
        b"/proc/self/exe\0",
    ].concat();
    let length = HEADERS + code.len() as u64;
    let mut program = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    // A shared object for this architecture, its entry, and one segment that is all of it.
    for half in [3_u16, 62] {
        program.extend(half.to_le_bytes());
    }
    program.extend(1_u32.to_le_bytes());
    for word in [BASE + HEADERS, 64, 0] {
        program.extend(word.to_le_bytes());
    }
    program.extend(0_u32.to_le_bytes());
    for half in [64_u16, 56, 1, 64, 0, 0] {
        program.extend(half.to_le_bytes());
    }
    for half in [1_u32, 5] {
        program.extend(half.to_le_bytes());
    }
    for word in [0, BASE, BASE, length, length, 0x1000] {
        program.extend(word.to_le_bytes());
    }
    program.extend(code);
    program
}

async fn a_loader_of_a_layer_cannot_write_to_our_program() {
    // The loader below is machine code of this architecture; elsewhere the test above stands alone.
    if cfg!(not(target_arch = "x86_64")) {
        return;
    }
    let host = Host::start();
    let before = own_program(&host);
    let layer = open_folder();
    for (name, bytes) in [("lib64/ld-linux-x86-64.so.2", loader()), ("attack", b"#!/proc/self/exe\n".to_vec())] {
        let path = layer.path().join(name);
        fs::create_dir_all(path.parent().expect("it has a folder")).expect("a folder can be made");
        fs::write(&path, bytes).expect("a file can be written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("the mode can be set");
    }
    for (uid, gid) in [(1000, 1000), (0, 0)] {
        let mut request = host.program(&["/attack"]);
        request.layers.push(layer.path().to_path_buf());
        (request.process.uid, request.process.gid) = (uid, gid);
        let (text, exit) = host.run_one(request).await;
        // Refused for its owner, and not only while it runs: that would be ETXTBSY.
        assert_eq!(exit.code, Some(libc::EACCES), "{text} {exit:?}");
    }
    assert_eq!(own_program(&host), before, "our program was changed");
    host.end().await;
}
