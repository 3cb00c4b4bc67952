"""The commands of the `modal` client and what becomes of them here. docs/compatibility.md shows this table.

tests/cli/test_modal_commands.py runs all but those in UNTESTED and those that need no server, and fails when the client has a command that
is not here."""

from __future__ import annotations

WORKS, LOCAL, CLOUD, NOT_YET = "works", "needs no server", "cloud only", "not yet"

_BY_STATE = {
    WORKS: """
        app dashboard; app history; app info; app list; app logs; app promote; app rollback; app rollover; app stats; app stop;
        container list; container logs; container stop; dashboard; deploy;
        dict clear; dict create; dict delete; dict get; dict items; dict list;
        environment create; environment delete; environment list; environment update;
        function autoscaler settings; function autoscaler update; function calls; function info; function logs; function stats;
        function variants; image build; image logs; image names delete; image names history; image names list; image pull;
        nfs create; nfs delete; nfs get; nfs list; nfs ls; nfs put; nfs rm; profile activate; profile current; profile list;
        queue clear; queue create; queue delete; queue len; queue list; queue peek;
        run; secret create; secret delete; secret list; serve;
        server autoscaler settings; server autoscaler update; server info; server logs; server requests; server stats;
        token info; token new; token rotate; token set;
        volume cp; volume create; volume dashboard; volume delete; volume get; volume list; volume ls; volume put; volume rename;
        volume rm;
        workspace member-tokens delete; workspace member-tokens disable; workspace member-tokens enable;
        workspace member-tokens list; workspace members list;
        workspace proxy-tokens allow; workspace proxy-tokens create; workspace proxy-tokens delete; workspace proxy-tokens list;
        workspace proxy-tokens revoke; workspace proxy-tokens update; workspace settings list; workspace settings set
    """,
    LOCAL: """
        changelog; config set; config set-environment; config show; curl; setup; skills install; skills show; skills update
    """,
    CLOUD: """
        billing rates; billing report; billing summary;
        endpoint create; endpoint info; endpoint library; endpoint list; endpoint logs; endpoint stats; endpoint stop;
        environment billing report; environment billing summary; environment members list; environment members remove;
        environment members update; environment roles list; environment roles update;
        workspace service-users create; workspace service-users delete; workspace service-users info;
        workspace service-users list; workspace service-users set-role
    """,
    NOT_YET: """
        container exec; function metrics;
        server deploy; server metrics; shell
    """,
}

COMMANDS: dict[str, str] = {
    " ".join(command.split()): state for state, text in _BY_STATE.items() for command in text.split(";")
}
"""Command -> what becomes of it. One that is not offered ends with a code other than 0 and the server's own sentence."""

UNTESTED: dict[str, str] = {
    "serve": "runs until it is interrupted; tests of calls use it",
    "endpoint create": "asks questions first, then fails like the other endpoint commands",
    "environment members remove": "needs a member first, which `list` refuses",
    "environment members update": "needs a member first, which `list` refuses",
    "environment roles update": "needs a role first, which `list` refuses",
    "workspace service-users set-role": "needs a service user first, which `create` refuses",
    "image pull": "needs a registry; tests of images have one",
    "server autoscaler settings": "needs a server; tests of the gateway have one",
    "server autoscaler update": "needs a server; tests of the gateway have one",
    "server info": "needs a server; tests of the gateway have one",
    "server logs": "needs a server; tests of the gateway have one",
    "server deploy": "needs a published image",
    "server metrics": "needs a server; tests of the gateway have one",
    "server requests": "needs a server; tests of its history have one",
    "server stats": "needs a server; tests of its history have one",
}
"""Commands whose state no test of the command line has shown, each with why."""
