#!/usr/bin/env python3
"""AUTH XOAUTH2 or OAUTHBEARER by Python's smtplib: prints the 334 challenge and the final reply.

usage: xoauth2.py HOST PORT USER TOKEN [xoauth2|oauthbearer]
"""
import base64, smtplib, ssl, sys

host, port, user, token = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
mechanism = (sys.argv[5] if len(sys.argv) > 5 else "xoauth2").upper()
context = ssl.create_default_context()
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
smtp = smtplib.SMTP(host, port, timeout=60)
smtp.starttls(context=context)
smtp.ehlo("client.example.test")
print("AUTH", smtp.esmtp_features.get("auth"))
if mechanism == "XOAUTH2":
    answer = f"user={user}\x01auth=Bearer {token}\x01\x01"
else:
    answer = f"n,a={user},\x01host={host}\x01port={port}\x01auth=Bearer {token}\x01\x01"
code, text = smtp.docmd("AUTH", mechanism + " " + base64.b64encode(answer.encode()).decode())
if code == 334:
    print(334, base64.b64decode(text).decode("utf8", "replace"))
    code, text = smtp.docmd(base64.b64encode(b"\x01").decode() if mechanism == "OAUTHBEARER" else "")
print(code, text.decode())
if code == 235:
    message = f"From: {user}\r\nTo: rcpt@example.org\r\nSubject: rig\r\n\r\nhi\r\n"
    print("refused:", smtp.sendmail(user, ["rcpt@example.org"], message))
smtp.quit()
