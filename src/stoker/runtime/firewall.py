"""What sandboxes may reach, as one nftables table per server."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Network

from stoker.runtime.addresses import GATEWAY

DENIED = (
    "169.254.0.0/16",
    "127.0.0.0/8",
    "224.0.0.0/4",
    "240.0.0.0/4",
    "100.100.100.200",
    "168.63.129.16",
    "192.0.0.192",
)
"""Link-local (where clouds keep credentials of the machine), multicast, and the metadata services that live elsewhere."""


def table(
    name: str, *, prefix: str, block: IPv4Network, gateway_port: int, resolvers: Sequence[str], redirect: str | None
) -> str:
    """The nft script that (re)creates table `name`. Interfaces of this server's sandboxes are called `prefix`*.

    Rules for others' traffic end in `accept`, which in nftables only ends this table's chain: other firewalls still decide."""
    ours = f'iifname "{prefix}*"'
    towards = f'oifname "{prefix}*"'
    names = "".join(f"    ip daddr {server} meta l4proto {{ tcp, udp }} th dport 53 accept\n" for server in resolvers)
    redirection = ""
    if redirect is not None:
        redirection = f"""
  chain names {{
    type nat hook prerouting priority dstnat; policy accept;
    {ours} ip daddr {GATEWAY} meta l4proto {{ tcp, udp }} th dport 53 dnat ip to {redirect}
  }}"""
    return f"""
table inet {name} {{}}
delete table inet {name}
table inet {name} {{
  chain to_host {{
    type filter hook input priority filter - 10; policy accept;
    iifname != "{prefix}*" accept
    ct state established,related accept
    ct status dnat accept
    ip daddr {GATEWAY} tcp dport {gateway_port} accept
{names}    meta l4proto tcp reject with tcp reset
    drop
  }}
  chain through_host {{
    type filter hook forward priority filter - 10; policy accept;
    iifname != "{prefix}*" oifname != "{prefix}*" accept
    ct state established,related accept
    {towards} drop
    ct status dnat accept
    meta protocol ip6 drop
    ip saddr != {block} drop
{names}    ip daddr {{ {", ".join(DENIED)} }} drop
  }}
  chain outwards {{
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr {block} oifname != "{prefix}*" masquerade
  }}{redirection}
}}
"""


def removal(name: str) -> str:
    """The nft script that removes table `name` whether or not it is there."""
    return f"table inet {name} {{}}\ndelete table inet {name}\n"
