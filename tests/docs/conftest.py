"""What the checks of the documentation's commands compare is shown when they fail."""

import pytest

pytest.register_assert_rewrite("tests.docs.outputs")
