//! The disk that a virtual machine boots from: Debian with systemd, made by mmdebstrap from Debian's own mirror, with the
//! cloud kernel and an agent that runs what is brought. Kept for a week; a run works on a copy and never writes to it.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::cpio::Archive;
use super::run;

/// A release of Debian.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum Release {
    /// 12: systemd 252, Linux 6.1, Landlock ABI 2.
    Bookworm,
    /// 13: systemd 257, Linux 6.12, Landlock ABI 6.
    Trixie,
}

impl Release {
    /// Debian's name of it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Release::Bookworm => "bookworm",
            Release::Trixie => "trixie",
        }
    }
}

/// What a machine boots.
#[derive(Debug)]
pub(super) struct Image {
    pub(super) release: Release,
    /// An ext4 file system.
    pub(super) disk: PathBuf,
    pub(super) kernel: PathBuf,
    pub(super) initrd: PathBuf,
    /// Where the copies and logs of runs go.
    pub(super) folder: PathBuf,
}

/// What a user's machine has, and what the tests use beside it.
const PACKAGES: &str = "systemd-sysv,udev,dbus,dbus-user-session,libpam-systemd,kmod,procps,iproute2,ca-certificates,curl,\
                        util-linux,busybox-static,sudo,jq,adduser";
/// The hook of mmdebstrap that fetches the kernel; $1 is the tree.
const KERNEL: &str = include_str!("../../../tests/vm/image/kernel.sh");
const INIT: &str = include_str!("../../../tests/vm/image/init");
const AGENT: &str = include_str!("../../../tests/vm/image/agent");
const AGENT_UNIT: &str = include_str!("../../../tests/vm/image/agent.service");
const NETWORK: &str = "[Match]\nName=eth*\n[Network]\nDHCP=ipv4\n";
/// What a machine that lives for minutes has no need of.
const MASKED: [&str; 9] = [
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "getty@tty1.service",
    "systemd-networkd-wait-online.service",
    "systemd-timesyncd.service",
];
const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);

/// The image of a release: that of this week, else a new one.
///
/// # Errors
/// The step that failed, and what it said.
pub(super) fn ready(folder: &Path, release: Release, fresh: bool) -> Result<Image, String> {
    let at = |extension: &str| folder.join(format!("{}.{extension}", release.name()));
    let image = Image {
        release,
        disk: at("ext4"),
        kernel: at("kernel"),
        initrd: at("initrd"),
        folder: folder.to_owned(),
    };
    let recipe = [PACKAGES, KERNEL, INIT, AGENT, AGENT_UNIT, NETWORK].join("\n");
    let stamp = at("recipe");
    let young = fs::metadata(&image.disk)
        .and_then(|disk| disk.modified())
        .is_ok_and(|made| made.elapsed().is_ok_and(|age| age < WEEK));
    let same = fs::read_to_string(&stamp).is_ok_and(|was| was == recipe);
    if young && same && !fresh {
        println!("{}: image of this week", release.name());
        return Ok(image);
    }
    let began = Instant::now();
    build(&image)?;
    fs::write(&stamp, recipe).map_err(|why| format!("{}: {why}", stamp.display()))?;
    println!(
        "{}: image built in {} s",
        release.name(),
        began.elapsed().as_secs()
    );
    Ok(image)
}

fn build(image: &Image) -> Result<(), String> {
    let id = run(Command::new("id").arg("-u"))?;
    if id.trim() != "0" {
        return Err(
            "an image of a virtual machine can only be built by root: run it once as root".to_owned(),
        );
    }
    let shared = Path::new("/dev/shm");
    // dpkg waits for the disk a lot.
    let place = if shared.is_dir() { shared } else { &image.folder };
    let work = Work::new(place, image.release)?;
    let (tree, kernel_hook) = (work.0.join("tree"), work.0.join("kernel.sh"));
    write(&kernel_hook, KERNEL, 0o755)?;
    let mirror =
        std::env::var("FUNCD_VM_MIRROR").unwrap_or_else(|_| "http://deb.debian.org/debian".to_owned());
    let out = work.0.join("kernel");
    run(Command::new("mmdebstrap")
        .args(["--quiet", "--variant=minbase", &format!("--include={PACKAGES}")])
        .arg("--aptopt=Acquire::Languages \"none\"")
        .args(["man", "locale", "doc"].map(|what| format!("--dpkgopt=path-exclude=/usr/share/{what}/*")))
        .arg(format!(
            "--customize-hook=sh {} \"$1\" {}",
            kernel_hook.display(),
            out.display()
        ))
        .arg(image.release.name())
        .arg(&tree)
        .arg(mirror)
        .env("PATH", with_sbin()))?;
    settings(&tree)?;
    let initrd = initrd(&tree)?;
    let disk = work.0.join("disk");
    fs::File::create(&disk)
        .and_then(|file| file.set_len(3 << 30))
        .map_err(|why| format!("{}: {why}", disk.display()))?;
    run(Command::new("mke2fs")
        .args(["-q", "-t", "ext4", "-J", "size=16", "-d"])
        .arg(&tree)
        .arg(&disk)
        .env("PATH", with_sbin()))?;
    fs::write(&image.initrd, initrd).map_err(|why| format!("{}: {why}", image.initrd.display()))?;
    copy(&out, &image.kernel)?;
    copy(&disk, &image.disk)
}

fn with_sbin() -> String {
    format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default())
}

/// Copies a file, its holes as holes.
pub(super) fn copy(from: &Path, to: &Path) -> Result<(), String> {
    run(Command::new("cp")
        .args(["--sparse=always", "--reflink=auto"])
        .args([from, to]))
    .map(drop)
}

fn write(path: &Path, text: &str, mode: u32) -> Result<(), String> {
    let made = path
        .parent()
        .map_or(Ok(()), fs::create_dir_all)
        .and_then(|()| fs::write(path, text))
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(mode)));
    made.map_err(|why| format!("{}: {why}", path.display()))
}

/// What is the guest's own beside Debian.
fn settings(tree: &Path) -> Result<(), String> {
    let etc = tree.join("etc");
    write(&etc.join("hostname"), "vm\n", 0o644)?;
    write(&etc.join("hosts"), "127.0.0.1 localhost vm\n", 0o644)?;
    // Made anew at each first boot.
    write(&etc.join("machine-id"), "", 0o644)?;
    write(&etc.join("systemd/network/20-vm.network"), NETWORK, 0o644)?;
    write(&etc.join("systemd/system/vm-agent.service"), AGENT_UNIT, 0o644)?;
    write(&tree.join("usr/local/sbin/vm-agent"), AGENT, 0o755)?;
    let units = etc.join("systemd/system");
    let wants = units.join("multi-user.target.wants");
    let link = |to: &str, at: PathBuf| {
        let _ = fs::remove_file(&at);
        symlink(to, &at).map_err(|why| format!("{}: {why}", at.display()))
    };
    fs::create_dir_all(&wants).map_err(|why| format!("{}: {why}", wants.display()))?;
    link("../vm-agent.service", wants.join("vm-agent.service"))?;
    link(
        "/usr/lib/systemd/system/systemd-networkd.service",
        wants.join("systemd-networkd.service"),
    )?;
    for unit in MASKED {
        link("/dev/null", units.join(unit))?;
    }
    // Whoever looks at the console of a machine that hangs may come in.
    run(Command::new("sed")
        .args(["-i", "s/^root:[^:]*:/root::/"])
        .arg(etc.join("shadow")))
    .map(drop)
}

/// What the kernel needs before it sees its disk: the driver, and a shell that finds the disk by its name.
fn initrd(tree: &Path) -> Result<Vec<u8>, String> {
    let read = |path: &Path| fs::read(path).map_err(|why| format!("{}: {why}", path.display()));
    let modules = tree.join("usr/lib/modules");
    let version = fs::read_dir(&modules)
        .ok()
        .and_then(|mut all| all.next())
        .and_then(Result::ok)
        .ok_or_else(|| format!("{}: no kernel was unpacked", modules.display()))?;
    let version = version.file_name().to_string_lossy().into_owned();
    let mut archive = Archive::default();
    for name in ["bin", "dev", "sys", "root", "modules"] {
        archive.folder(name);
    }
    archive.file("init", INIT.as_bytes());
    archive.file("bin/busybox", &read(&tree.join("usr/bin/busybox"))?);
    let mut seen: Vec<String> = Vec::new();
    for driver in ["virtio_pci", "virtio_blk"] {
        let needs = run(Command::new("chroot")
            .arg(tree)
            .args(["/sbin/modprobe", "-S", &version, "--show-depends", driver])
            .env("PATH", with_sbin()))?;
        for path in needs.lines().filter_map(|line| line.strip_prefix("insmod ")) {
            let path = path.trim();
            if !seen.iter().any(|known| known == path) {
                seen.push(path.to_owned());
                let content = module(&tree.join(path.trim_start_matches('/')))?;
                // They are loaded in the order of their names.
                archive.file(&format!("modules/{:02}.ko", seen.len()), &content);
            }
        }
    }
    Ok(archive.end())
}

/// A module as insmod takes it; Debian 12 packs its own.
fn module(path: &Path) -> Result<Vec<u8>, String> {
    let mut command = match path.extension() {
        Some(extension) if extension == "xz" => Command::new("xz"),
        _ => return fs::read(path).map_err(|why| format!("{}: {why}", path.display())),
    };
    match command.arg("-dc").arg(path).output() {
        Ok(output) if output.status.success() => Ok(output.stdout),
        other => Err(format!("xz -dc {}: {other:?}", path.display())),
    }
}

/// A folder that goes away with this. Root's tree in it is removed by root's `rm`.
struct Work(PathBuf);

impl Work {
    fn new(place: &Path, release: Release) -> Result<Work, String> {
        let path = place.join(format!("funcd-vm-{}-{}", release.name(), std::process::id()));
        fs::create_dir_all(&path).map_err(|why| format!("{}: {why}", path.display()))?;
        Ok(Work(path))
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        if let Err(why) = fs::remove_dir_all(&self.0) {
            eprintln!("xtask: {} stays: {why}", self.0.display());
        }
    }
}
