from tests.support.fresh import database_url as database_url
from tests.support.fresh import row_locking_url as row_locking_url
