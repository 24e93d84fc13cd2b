"""Google's own client library against the practice Gmail API: whether that is what the library takes
for Gmail, and what Google's description of the API says of sending.

Arguments: URL of the sandbox, client id, client secret, mailbox.
"""
import base64
import glob
import hashlib
import io
import json
import os
import secrets
import sys
import urllib.parse
import urllib.request

import googleapiclient
from google.oauth2.credentials import Credentials
from googleapiclient.discovery import build_from_document
from googleapiclient.errors import HttpError
from googleapiclient.http import MediaIoBaseUpload

URL, CLIENT_ID, CLIENT_SECRET, MAILBOX = sys.argv[1:]
REDIRECT = "http://localhost:1/back"


class Stay(urllib.request.HTTPRedirectHandler):
    """The code is in the redirect; nobody follows it."""

    def redirect_request(self, *_):
        return None


def post(url, form):
    opener = urllib.request.build_opener(Stay)
    try:
        return opener.open(url, urllib.parse.urlencode(form).encode())
    except urllib.error.HTTPError as error:
        return error


def token(scope):
    verifier = secrets.token_urlsafe(48)
    digest = hashlib.sha256(verifier.encode()).digest()
    query = urllib.parse.urlencode({
        "response_type": "code", "client_id": CLIENT_ID, "redirect_uri": REDIRECT, "scope": scope,
        "state": "s", "code_challenge_method": "S256",
        "code_challenge": base64.urlsafe_b64encode(digest).rstrip(b"=").decode(),
    })
    consent = {"mailbox": MAILBOX, "decision": "allow"}
    back = post(f"{URL}/authorize?{query}", consent).headers["Location"]
    code = urllib.parse.parse_qs(urllib.parse.urlsplit(back).query)["code"][0]
    answer = post(f"{URL}/token", {
        "grant_type": "authorization_code", "code": code, "redirect_uri": REDIRECT,
        "code_verifier": verifier, "client_id": CLIENT_ID, "client_secret": CLIENT_SECRET,
    })
    return json.load(answer)["access_token"]


def service(description, scope):
    return build_from_document(description, credentials=Credentials(token(scope)))


def refused(request, status, reason):
    try:
        request.execute()
    except HttpError as error:
        assert error.status_code == status, error
        assert error.error_details[0]["reason"] == reason, error.error_details
        return
    raise AssertionError(f"not refused: {reason}")


documents = os.path.join(os.path.dirname(googleapiclient.__file__), "discovery_cache/documents")
with open(os.path.join(documents, "gmail.v1.json"), encoding="utf-8") as file:
    description = json.load(file)
send = description["resources"]["users"]["resources"]["messages"]["methods"]["send"]
# What the relay relies on.
upload = send["mediaUpload"]
assert upload["maxSize"] == "36700160", upload
assert upload["protocols"]["simple"]["path"] == "/upload/gmail/v1/users/{userId}/messages/send", upload
assert any(accept in ("message/*", "message/rfc822") for accept in upload["accept"]), upload
assert send["httpMethod"] == "POST" and send["path"] == "gmail/v1/users/{userId}/messages/send", send
assert "https://www.googleapis.com/auth/gmail.send" in send["scopes"], send
assert description["rootUrl"] == "https://gmail.googleapis.com/", description["rootUrl"]

description["rootUrl"] = description["baseUrl"] = f"{URL}/"
description.pop("mtlsRootUrl", None)
gmail = service(description, "https://mail.google.com/")
messages = gmail.users().messages()


def message(to, body="body"):
    return f"From: {MAILBOX}\r\nTo: {to}\r\nBcc: blind@example.org\r\nSubject: s\r\n\r\n{body}\r\n".encode()


def media(octets):
    return MediaIoBaseUpload(io.BytesIO(octets), mimetype="message/rfc822", resumable=False)


sent = messages.send(userId="me", media_body=media(message("a@example.org"))).execute()
assert sent["id"] and sent["threadId"] and sent["labelIds"] == ["SENT"], sent
raw = base64.urlsafe_b64encode(message("b@example.org")).decode()
sent = messages.send(userId=MAILBOX, body={"raw": raw}).execute()
assert sent["id"], sent
aliases = gmail.users().settings().sendAs().list(userId="me").execute()
assert aliases["sendAs"][0]["sendAsEmail"] == MAILBOX, aliases

nobody = media(f"From: {MAILBOX}\r\n\r\nx\r\n".encode())
refused(messages.send(userId="me", media_body=nobody), 400, "invalidArgument")
refused(messages.send(userId="other@example.com", body={"raw": raw}), 403, "forbidden")
narrow = service(description, "https://www.googleapis.com/auth/gmail.send")
refused(narrow.users().settings().sendAs().list(userId="me"), 403, "insufficientPermissions")
outlook = service(description, "https://outlook.office.com/SMTP.Send")
refused(outlook.users().messages().send(userId="me", body={"raw": raw}), 403, "insufficientPermissions")
print("ok")
