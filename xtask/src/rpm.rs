//! An RPM of staged files, by rpmbuild(8). Its scripts are those of the Debian package, told in its words. Compiles nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::package::{compress, files, set_modes_and_times};
use crate::run::{Failed, epoch, root, succeed};

/// Builds the package; its path.
///
/// # Errors
/// What, where, why and what to do.
pub(crate) fn build(
    stage: &Path,
    out: &Path,
    (version, arch): (&str, &str),
    compression: &str,
) -> Result<PathBuf, String> {
    for page in files(&stage.join("usr/share/man")).failed("read", stage)? {
        compress(&page)?;
    }
    set_modes_and_times(stage).failed("set the times of", stage)?;
    let stage = fs::canonicalize(stage).failed("find", stage)?;
    let work = fs::canonicalize(out).failed("find", out)?.join(".rpmbuild");
    let _ = fs::remove_dir_all(&work);
    fs::create_dir_all(&work).failed("make", &work)?;
    let spec = work.join("funcd.spec");
    fs::write(&spec, self::spec(&stage, version, compression)?).failed("write", &spec)?;
    let name = format!("funcd-{version}-1.{arch}.rpm");
    let built = succeed(
        Command::new("rpmbuild")
            .args(["-bb", "--quiet", "--target", arch, "--define"])
            .arg(format!("_topdir {}", work.display()))
            .arg(&spec)
            .env("SOURCE_DATE_EPOCH", epoch().to_string())
            .stdout(Stdio::null()),
    );
    let rpm = out.join(&name);
    let moved = built.and_then(|_| {
        let made = work.join("RPMS").join(arch).join(&name);
        fs::rename(&made, &rpm).failed("find", &made)
    });
    let _ = fs::remove_dir_all(&work);
    moved.map(|()| rpm)
}

/// What rpmbuild is told. Every word that could differ between two machines or days is set.
fn spec(stage: &Path, version: &str, compression: &str) -> Result<String, String> {
    let payload = match compression {
        "none" => "w.ufdio",
        "gzip" => "w9.gzdio",
        _ => "w6.xzdio",
    };
    let script = |name: &str| {
        let path = root().join("systemd/packaging").join(name);
        fs::read_to_string(&path)
            .failed("read", &path)
            .map(|text| text.replace('%', "%%"))
    };
    let mut listed = String::from("%dir /etc/funcd\n%dir /etc/funcd/conf.d\n");
    for path in files(stage).failed("read", stage)? {
        let path = path.strip_prefix(stage).unwrap_or(&path).display().to_string();
        listed += &match path.as_str() {
            "etc/funcd/funcd.toml" => format!("%config(noreplace) /{path}\n"),
            other => format!("/{other}\n"),
        };
    }
    let (install, remove, after) = (script("postinst")?, script("prerm")?, script("postrm")?);
    Ok(format!(
        r#"%define debug_package %{{nil}}
%define __os_install_post %{{nil}}
%define _build_id_links none
%define _buildhost localhost
%define use_source_date_epoch_as_buildtime 1
%define clamp_mtime_to_source_date_epoch 1
%define _binary_payload {payload}
Name: funcd
Version: {version}
Release: 1
Summary: Serverless process-per-function host for bare Linux
License: MIT OR Apache-2.0
URL: https://github.com/funcd/funcd
AutoReqProv: no
%description
An executable copied into a folder answers HTTP: started on the first request, confined to a sandbox of its own,
scaled with load, restarted when it dies.
%install
cp -a {stage}/. %{{buildroot}}/
%files
%defattr(-,root,root)
{listed}
%post
if [ "$1" -gt 1 ]; then set -- configure earlier; else set -- configure ""; fi
{install}
%preun
if [ "$1" -eq 0 ]; then set -- remove; else set -- upgrade; fi
{remove}
%postun
if [ "$1" -eq 0 ]; then set -- remove; else set -- upgrade; fi
{after}
"#,
        stage = stage.display()
    ))
}
