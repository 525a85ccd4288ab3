# Puts Debian's cloud kernel into the tree $1 and its image into the file $2. It is unpacked, not installed: nothing shall
# build an initial ramdisk of the usual size for it.
set -eu
package=$(chroot "$1" apt-cache show linux-image-cloud-amd64 |
    sed -n 's/^Depends: *\(linux-image-[^ ,]*\).*/\1/p' | head -n 1)
chroot "$1" sh -c "cd /var/tmp && apt-get -qq -o APT::Sandbox::User=root download $package"
# /lib is a link, which has to stay one.
dpkg-deb --fsys-tarfile "$1"/var/tmp/linux-image-*.deb |
    tar -x -C "$1" --keep-directory-symlink --exclude='./usr/share/*'
rm "$1"/var/tmp/linux-image-*.deb
mv "$1"/boot/vmlinuz-* "$2"
rm -f "$1"/boot/*
for version in "$1"/usr/lib/modules/*; do
    chroot "$1" depmod "$(basename "$version")"
done
