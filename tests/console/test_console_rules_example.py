"""The mission document's example, in a real browser: a rule is written in the form, a package is updated in a real
container, which loses its network; the rule is deleted with the box, and the container has it back.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect
from tests.console.complaints import Complaints
from tests.console.conftest import PASSWORD
from tests.system.podman import missing
from tests.system.running import NODE, wait_for
from tests.system.test_examples_response_rules import Stage, package_updated, stage, statuses

pytestmark = [pytest.mark.slow, pytest.mark.root, pytest.mark.skipif(bool(missing()), reason=missing())]

#: Of the module where it is: a controller, an agent, a container and a receiver.
__all__ = ["stage"]


@pytest.fixture
def operator(browser: Browser, stage: Stage, complaints: Complaints) -> Iterator[Page]:
    """An operator's browser, at the real controller."""
    stage.quell.ask("POST", "/v1/users", json={"name": "operator", "role": "operator", "password": PASSWORD})
    context = browser.new_context(
        base_url=stage.quell.url, viewport={"width": 1366, "height": 860}, reduced_motion="reduce"
    )
    context.set_default_timeout(30_000)
    page = context.new_page()
    complaints.watch(page)
    page.goto("/login")
    page.get_by_label("Name").fill("operator")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Log in").click()
    page.wait_for_url("**/console/overview")
    yield page
    context.close()
    assert complaints.unexpected() == []


def test_the_example_is_written_provoked_and_deleted_with_the_box(operator: Page, stage: Stage) -> None:
    # Only to have the endpoint: its rule answers nothing here.
    stage.apply("admission-denied.yaml")
    assert stage.container.reaches()
    page = operator
    page.goto("/console/rules")
    page.get_by_role("link", name="Insert to top").click()
    page.get_by_label("Group", exact=True).fill("nv.alpinepython.default")
    page.get_by_label("Event", exact=True).select_option("security-event")
    page.get_by_label("Criterion 1").fill("name:Container.Package.Updated")
    page.get_by_role("checkbox", name="quarantine", exact=True).check()
    page.get_by_role("checkbox", name="webhook", exact=True).check()
    page.get_by_role("checkbox", name="soc").first.check()
    page.get_by_label("Comment", exact=True).fill("A package was updated in a running container")
    page.get_by_label("Name", exact=True).fill("package-updated-in-the-browser")
    expect(page.get_by_label("Group", exact=True)).to_have_value("nv.alpinepython.default")
    page.get_by_role("button", name="Insert the rule").click()
    expect(page.get_by_role("status")).to_contain_text("was inserted")
    row = page.locator("tr[data-rule]").first
    expect(row).to_contain_text("package-updated-in-the-browser")
    expect(row).to_contain_text("Enforcing")

    record = stage.send(package_updated(stage), "falco")
    assert statuses(record) == {"quarantine": "granted", "webhook": "granted"}
    assert not stage.container.reaches()
    assert stage.told(record)["comment"] == "A package was updated in a running container"

    page.reload()
    row.get_by_role("link", name="holds 1 in quarantine").click()
    expect(page.locator("section").filter(has=page.locator("#held"))).to_contain_text(NODE)
    expect(page.locator("section").filter(has=page.locator("#latest-title"))).to_contain_text(
        "Launch Package Management Process in Container"
    )

    page.get_by_role("link", name="Delete").click()
    asked = page.get_by_role("dialog")
    expect(asked).to_contain_text("With the box this is released")
    expect(asked).to_contain_text(NODE)
    asked.get_by_label("Unquarantine what it isolated").check()
    asked.get_by_role("button", name="Delete it").click()
    expect(page.get_by_role("status")).to_contain_text("was deleted. 1 released from quarantine")
    expect(page.locator("table.rules")).not_to_contain_text("package-updated-in-the-browser")
    wait_for(stage.container.reaches, what="the network, once the rule is gone")
    wait_for(lambda: not stage.quarantined(), what="the end of the quarantine")
