#!/usr/bin/env python3
"""Canaille (PyPI), an identity server on Authlib, with everything in memory: the second OAuth server of the tests.

usage: canaille_server.py PORT REDIRECT_URI LIFE USER[,USER...]

One client, `relay` (secret `relay-secret`), and `dovecot`, which may introspect its tokens. The
password of a user is its name. LIFE: seconds that an access token lives. One line a token request on standard output.
"""
import datetime
import sys

from canaille import create_app
from canaille.app import models
from canaille.backends import Backend
from joserfc.jwk import RSAKey
from werkzeug.serving import WSGIRequestHandler, make_server

port, redirect, life, users = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4].split(",")
app = create_app(
    config={
        "SECRET_KEY": "test-only",
        "SERVER_NAME": f"127.0.0.1:{port}",
        "PREFERRED_URL_SCHEME": "http",
        "OAUTH2_TOKEN_EXPIRES_IN": {"authorization_code": life, "refresh_token": life},
        "CANAILLE": {"DATABASE": "memory", "JAVASCRIPT": False, "HTMX": False, "LOGGING": None},
        "CANAILLE_OIDC": {"ACTIVE_JWKS": [RSAKey.generate_key(2048, auto_kid=True).as_dict(private=True)]},
    },
    env_file="/dev/null",
)

with app.app_context():
    backend = Backend.instance

    def client(name, **more):
        made = models.Client(
            client_id=name,
            client_secret=f"{name}-secret",
            client_name=name,
            contacts=[],
            client_id_issued_at=datetime.datetime.now(datetime.timezone.utc),
            token_endpoint_auth_method="client_secret_basic",
            **more,
        )
        backend.save(made)
        return made

    dovecot = client("dovecot", scope=["openid"])
    relay = client(
        "relay",
        redirect_uris=[redirect],
        grant_types=["authorization_code", "refresh_token"],
        response_types=["code"],
        scope=["openid", "email", "profile"],
    )
    relay.audience = [relay, dovecot]
    backend.save(relay)
    for address in users:
        user = models.User(user_name=address, formatted_name=address, family_name=address, emails=[address])
        user.password = address
        backend.save(user)


@app.after_request
def told(response):
    from flask import request

    if request.endpoint == "oidc.endpoints.issue_token":
        print(f"token {request.form.get('grant_type')} {response.status_code}", flush=True)
        for name in ["access_token", "refresh_token", "id_token"]:
            if name in (response.get_json(silent=True) or {}):
                print("secret", response.get_json()[name], flush=True)
    return response


class Silent(WSGIRequestHandler):
    def log_request(self, code="-", size="-"):
        pass


make_server("127.0.0.1", port, app, threaded=True, request_handler=Silent).serve_forever()
