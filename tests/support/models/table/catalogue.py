"""All cases of the table."""

from __future__ import annotations

from collections.abc import Mapping

from tests.support.models.table import arrays, classifiers, column_types, custom, regressors, without_signature
from tests.support.models.table.case import Case

_MODULES = (classifiers, regressors, column_types, without_signature, arrays, custom)

CASES: Mapping[str, Case] = {case.name: case for module in _MODULES for case in module.TABLE.cases}
