# SPDX-License-Identifier: MIT
"""What the keeper of a private network does for a host program without privileges."""

from rootless.lab import as_nobody, result, scenario

OWN_ETC = """
layer=$(mktemp -d)
mount -t tmpfs layer "$layer"
mkdir "$layer/upper" "$layer/work"
mount -t overlay -o "lowerdir=/etc,upperdir=$layer/upper,workdir=$layer/work" etc /etc
umount --lazy "$layer"
rmdir "$layer"
"""
RESOLVED = f"""{OWN_ETC}
mount -t tmpfs run /run
mkdir -p /run/nscd /run/systemd/resolve
touch /run/nscd/socket /run/systemd/resolve/io.systemd.Resolve
echo 'nameserver 127.0.0.53' >/run/systemd/resolve/stub-resolv.conf
ln -sf ../run/systemd/resolve/stub-resolv.conf /etc/resolv.conf
"""


MANY_ADDRESSES = f"""{OWN_ETC}
for i in $(seq 2000); do
    echo "10.1.$((i / 250)).$((i % 250 + 1)) many.example"
done >>/etc/hosts
"""
# As in a container: part of /proc and /sys is covered, so nobody in there may mount new ones.
MASKED = """
mount -t tmpfs none /proc/irq
mount -t tmpfs none /sys/firmware
"""


def test_sockets_are_of_the_private_network() -> None:
    told = result(as_nobody(*scenario("sockets")))
    assert told == {"refused": "ECONNREFUSED", "unknown": "EINVAL", "leaked": 0}


def test_a_slow_look_up_holds_up_nobody() -> None:
    told = result(as_nobody(*scenario("slow_look_up")))
    assert told == {"waits": True, "found": [[2, 1, 6, "", ["10.9.0.7", 443]]]}


def test_a_name_with_more_addresses_than_anybody_tries_has_fewer() -> None:
    told = result(as_nobody(*scenario("many_addresses"), setup=MANY_ADDRESSES))
    assert told == {"found": 256, "refused": "EMSGSIZE"}


def test_a_name_that_nobody_knows_is_told_as_python_tells_it() -> None:
    assert result(as_nobody(*scenario("unknown_name"))) == {"gaierror": True}


def test_commands_run_inside_as_who_they_are() -> None:
    told = result(as_nobody(*scenario("commands")))
    assert (told["exit"], told["signal"], told["missing"]) == (7, -15, "ENOENT")
    assert told["uid"] == 65534
    assert "10.9.0.1/24" in told["addresses"]
    assert "fe80" not in told["addresses"], "an address that nobody configured"
    assert "default dev wg0" in told["routes"]
    assert told["resolv.conf"].startswith("nameserver 127.0.0.1\n")
    assert told["descriptors"] == ["0", "1", "2", "3"], "the last is that of the directory"
    assert int(told["ignored"].split()[1], 16) & 0x7FFFFFFF == 0, "32 and 33 are libc's"


def test_a_command_whose_start_was_cancelled_ends() -> None:
    assert result(as_nobody(*scenario("cancelled"))) == "ps"


def test_a_container_that_hides_parts_of_proc_and_sys_is_no_obstacle() -> None:
    told = result(as_nobody(*scenario("sockets"), setup=MASKED))
    assert told == {"refused": "ECONNREFUSED", "unknown": "EINVAL", "leaked": 0}


def test_services_that_look_names_up_outside_are_hidden() -> None:
    listed = result(as_nobody(*scenario("hidden"), setup=RESOLVED))
    assert listed == [
        "/run/nscd:",
        "/run/systemd/resolve:",
        "stub-resolv.conf",
        "nameserver",
        "127.0.0.53",
    ]
