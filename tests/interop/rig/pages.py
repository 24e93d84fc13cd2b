#!/usr/bin/env python3
"""Presses through the pages of oidc-provider, and of Canaille, as a person in a browser does: code, login, consent.

usage: pages.py URL USER [--code CODE] [--stop-before PREFIX] [--abort]

Prints the address it ended at and the text of the last page. With --stop-before the redirect to an address
with that prefix is printed and not followed: the browser of someone who sits elsewhere.
--abort presses "Cancel" where the page has it.
"""
import argparse, html as markup, http.cookiejar, re, sys, urllib.error, urllib.parse, urllib.request

parser = argparse.ArgumentParser()
parser.add_argument("url")
parser.add_argument("user")
parser.add_argument("--code", default="")
parser.add_argument("--stop-before", default="")
parser.add_argument("--abort", action="store_true")
wanted = parser.parse_args()


class Redirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, request, fp, code, msg, headers, target):
        if wanted.stop_before and target.startswith(wanted.stop_before):
            print(target)
            sys.exit(0)
        return super().redirect_request(request, fp, code, msg, headers, target)


browser = urllib.request.build_opener(Redirects, urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar()))


def visit(url, form=None):
    try:
        return browser.open(url, urllib.parse.urlencode(form).encode() if form is not None else None, timeout=30)
    except urllib.error.HTTPError as error:
        return error


page = visit(wanted.url)
for _ in range(10):
    html = page.read().decode()
    action = re.search(r'<form[^>]*action="([^"]*)"', html)
    if not action:
        break
    cancel = re.search(r'href="([^"]*/abort)"', html)
    if wanted.abort and cancel:
        page = visit(urllib.parse.urljoin(page.url, cancel.group(1)))
        continue
    form = dict(re.findall(r'name="([^"]+)"\s+value="([^"]*)"', html))
    for name in re.findall(r'name="(login|password)"', html):
        form[name] = wanted.user
    if 'name="user_code"' in html and not form.get("user_code"):
        form["user_code"] = wanted.code
    if 'value="accept"' in html:  # Canaille's consent page has a button for each answer
        form["answer"] = "accept"
    if "op.deviceConfirmForm" in html:
        form["confirm"] = "yes"
        form.pop("abort", None)
    page = visit(urllib.parse.urljoin(page.url, markup.unescape(action.group(1))), form)
print(page.url)
print(getattr(page, "status", ""), re.sub(r"<style.*?</style>|<[^>]+>|\s+", " ", html, flags=re.S).strip()[-400:])
