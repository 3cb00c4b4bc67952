"""What sandboxes may reach, as one nftables table per server, next to whatever other firewalls the machine has."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Network
from typing import Any

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
  set relays {{
    type inet_service
  }}
  chain to_host {{
    type filter hook input priority filter - 10; policy accept;
    iifname != "{prefix}*" accept
    ct state established,related accept
    ct status dnat accept
    ip daddr {GATEWAY} tcp dport {gateway_port} accept
    ip daddr {GATEWAY} tcp dport @relays accept
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


def admission(name: str, port: int) -> str:
    """The nft script that lets sandboxes reach one more port of the gateway's address."""
    return f"add element inet {name} relays {{ {port} }}\n"


def removal(name: str) -> str:
    """The nft script that removes table `name` whether or not it is there."""
    return f"table inet {name} {{}}\ndelete table inet {name}\n"


def admissions(ruleset: str, name: str, prefix: str) -> str:
    """The nft script that lets our traffic pass other firewalls that drop by default, as Docker and ufw set up (`ruleset`: what
    `nft -j list ruleset` printed).

    The rules go to the end of their chains, so whatever the administrator forbids by a rule stays forbidden; and they admit only what
    our own table let through before. Each carries `name` as its comment."""
    lines = []
    for kind, chain in _entries(ruleset):
        if (
            kind != "chain"
            or chain.get("policy") != "drop"
            or chain["family"] not in ("ip", "inet")
            or chain["table"] == name
        ):
            continue
        matches = {"forward": ("iifname", "oifname"), "input": ("iifname",)}.get(chain.get("hook", ""), ())
        lines += [
            f'add rule {chain["family"]} {chain["table"]} {chain["name"]} {match} "{prefix}*" accept comment "{name}"\n'
            for match in matches
        ]
    return "".join(lines)


def withdrawals(ruleset: str, name: str) -> str:
    """The nft script that takes back what `admissions` added."""
    return "".join(
        f"delete rule {rule['family']} {rule['table']} {rule['chain']} handle {rule['handle']}\n"
        for kind, rule in _entries(ruleset)
        if kind == "rule" and rule.get("comment") == name
    )


def _entries(ruleset: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for entry in json.loads(ruleset or "{}").get("nftables", []):
        yield from entry.items()
